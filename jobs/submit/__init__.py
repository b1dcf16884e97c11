"""`tandem submit`: a run as a job of a Ray cluster, from any machine that reaches it.

Packs, surveys the cluster, sends and follows. Imports the orchestrator's settings and nodes.
"""
