"""What a run that teaches begins with: text that the memory wrote, wordings, questions, and what
the memory alone knows.

Trains nothing; the trainers are in actors.training. Imports actors.pair and the rooms below it.
"""
