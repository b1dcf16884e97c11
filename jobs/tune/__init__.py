"""`tandem tune`: Ray Tune searches a run's settings; each trial is a whole run.

The search's settings, trials, results and report. Imports the orchestrator and `jobs.check`.
"""
