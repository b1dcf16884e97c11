"""Nodes of a Ray cluster: their resources, where groups are placed, which will be taken away.

Imports settings. Used by processes and by the jobs that check or submit a run.
"""
