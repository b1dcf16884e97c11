"""Nodes of a Ray cluster: what they have, where groups are placed, which are going away.

Imports settings; called by processes, by `run.py` and by `tandem check`.
"""
