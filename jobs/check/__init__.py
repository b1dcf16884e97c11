"""`tandem check`: what a run takes, and what is wrong with it, before it starts.

Imports the orchestrator's settings, nodes and run_dir; called by the command line and by `tandem
tune`.
"""
