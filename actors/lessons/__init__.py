"""What a person wants the data layer to say: lessons, read from JSON lines, and their windows.

Nothing of either layer. Imports actors.corpus and the rooms below it.
"""
