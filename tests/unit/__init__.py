"""Unit tests: no Ray, no network, one file per source file."""
