"""Unit tests of the benchmarks: their arithmetic, not their figures."""
