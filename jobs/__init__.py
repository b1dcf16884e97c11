"""What a person or a scheduler starts: the `tandem` command and its jobs.

A file per command where one file does, a room for each of the larger ones.
"""
