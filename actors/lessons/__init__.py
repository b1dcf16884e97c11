"""What a person wants a pair to say: lessons, read from JSON lines, their windows, and what a
running run was told or is taught.

Nothing of either layer. Imports actors.corpus and the rooms below it.
"""
