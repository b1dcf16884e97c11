"""Whole runs on a local Ray of two CPUs."""
