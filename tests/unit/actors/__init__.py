"""Unit tests of what one trainer process knows."""
