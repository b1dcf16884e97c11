"""Held-out figures, whole answers, and the evaluator that produces them.

Reads both layers and changes neither. Imports weights and what lies below it.
"""
