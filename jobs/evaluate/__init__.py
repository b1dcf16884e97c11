"""`tandem evaluate`: the figures of a finished run again, its losses on any text, and its tasks.

Imports jobs.harness for tasks, jobs.learn for forks, actors.pair and the orchestrator.
"""
