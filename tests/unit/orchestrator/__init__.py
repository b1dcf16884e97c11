"""Unit tests of what decides and wires: scripted clusters, no actors."""
