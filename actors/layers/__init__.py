"""The two layers, the memory port between them, and the losses.

Modules and pure functions of tensors: no optimizer, no files, no processes. Imports settings,
operators, and from the corpus the windows that a batch is made of.
"""
