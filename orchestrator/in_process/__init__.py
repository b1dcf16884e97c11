"""A run in one process, without Ray: for a breakpoint in a step, for notebooks and for tests.

The second `loop.ports.ClusterPort`: the same trainers and the same evaluator as in `processes`, one
call after the other. Imports torch, so `run` imports it only when asked for such a run. Imports
run_dir, loop and settings.
"""
