"""Where weights come from and go to: built, loaded, started from, exported.

The only room that reads and writes model files. Imports layers, snapshots and tokenizers.
"""
