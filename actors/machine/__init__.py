"""The machine under a process: its device, host memory in bulk, seeds, profiles and FLOPs.

Knows nothing of models or corpora. Imports settings, storage and the messages only; every room
above may import it.
"""
