"""What people see of a run: progress, report, plots, trackers, Prometheus.

Reads what was measured, decides nothing. Imports run_dir, loop and settings.
"""
