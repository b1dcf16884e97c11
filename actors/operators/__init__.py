"""Differentiable operations on tensors that torch has only as many single ones.

Pure functions of tensors, each with its gradient. Imports nothing of ours.
"""
