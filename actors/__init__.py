"""What one trainer process knows: torch yes, Ray never.

`wire.py` holds the messages between processes, `storage.py` any fsspec URL as a file system,
`formats.py` how numbers and sizes are written. Each
folder is a room; its docstring says what it holds and what it may import. Rooms import each other
in one direction only, in the order machine and settings, sources, tokenizers, corpus, layers,
snapshots, weights, measuring, training, pair.
"""
