"""Differentiable operations on tensors that torch has only as many single ones.

Pure functions of tensors, each with its gradient, what they compute in, and how a pass is cut
into parts or goes on from its front. Imports nothing of ours.
"""
