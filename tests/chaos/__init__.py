"""Scripted faults over many intervals; each is asserted to have fired."""
