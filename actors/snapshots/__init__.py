"""A layer's parameters as one flat buffer: published, adopted, checkpointed.

Knows bytes, names and checksums, not what a layer means. Imports settings, machine and the
messages.
"""
