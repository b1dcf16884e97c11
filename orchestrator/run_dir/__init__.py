"""What a run leaves behind and is steered by: files, checkpoints, metrics, status, mailbox.

Any fsspec URL. Imports loop (the values it stores) and settings.
"""
