"""A pair as a folder that people give each other: its layout, its model card, and the hub.

Imports weights and what that may import; huggingface_hub is asked for models here alone.
"""
