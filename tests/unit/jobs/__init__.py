"""Unit tests of the jobs."""
