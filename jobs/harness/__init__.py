"""Pairs in EleutherAI's lm-evaluation-harness: `tandem evaluate RUN --tasks`, and `tandem lm-eval`.

Imports pair, run_dir and jobs.api; lm_eval is imported here alone.
"""
