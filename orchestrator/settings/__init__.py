"""A run's config: read from YAML, overridden by dotted keys, validated.

Adds to the trainers' settings what only the driver needs. No torch, no Ray. Imports
actors.settings.
"""
