"""What one trainer process knows.

The two layers, their losses, the corpus and the interval. Never Ray.
"""
