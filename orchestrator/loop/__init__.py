"""The coordinator and its decisions, free of Ray and of files.

What runs next, what is committed, what a failure leads to, what a command does. Knows the groups by
`ports.ClusterPort`, so that tests and the run in one process drive it without Ray. Imports
settings.
"""
