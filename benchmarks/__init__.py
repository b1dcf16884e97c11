"""Measurements of speed, memory and learning, each beside its peer in the same run.

Run as `python -m benchmarks.X`.
"""
