"""What a person tells a pair that is trained, and takes back: `tandem tell`, `told`, `untell`.

Imports actors.pair, actors.weights and the orchestrator's run_dir.
"""
