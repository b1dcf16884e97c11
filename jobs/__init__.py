"""What a person or a scheduler starts: the `tandem` command and its jobs.

A file per command where one file does; rooms for the larger ones: check, learn, submit and tune.
"""
