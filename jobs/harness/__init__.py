"""Pairs in EleutherAI's lm-evaluation-harness: `tandem evaluate RUN --tasks`, and its own command.

Imports pair, run_dir and jobs.api; lm_eval is imported here alone.
"""
