"""A layer's parameters as one flat buffer: published, adopted, checkpointed; and, published beside
them, what the data layer said while it trained.

Knows bytes, names and checksums, not what a layer means; what was said is a batch and a teacher.
Imports settings, operators, layers, machine and the messages.
"""
