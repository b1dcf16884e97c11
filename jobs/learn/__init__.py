"""What a finished run learns later: `tandem learn`, and the forks of `tandem evaluate --learn`.

Imports actors.pair and the orchestrator's run_dir and reporting.
"""
