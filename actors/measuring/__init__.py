"""What a pair of layers knows: held-out figures, whole answers, and what changed between two pairs.

Reads both layers and changes neither. Imports weights and what lies below it.
"""
