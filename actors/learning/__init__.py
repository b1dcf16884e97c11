"""What a finished pair learns more: its memory, its port, or a copy of both layers.

Imports actors.pair and the rooms below it; called by the jobs on finished runs.
"""
