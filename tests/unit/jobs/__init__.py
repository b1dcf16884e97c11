"""Unit tests of what people start: no Ray, no training."""
