"""A run's config: read from YAML, overridden by dotted keys, validated; and its reference.

Adds to the trainers' settings those that only the driver needs. No torch, no Ray. Imports
actors.settings, and what reads files and tells local paths from names on the hub.
"""
