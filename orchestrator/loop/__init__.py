"""The coordinator and its decisions, without Ray and without files.

Which interval is next, which phase a group is in and how long it may last, what is committed, what
a failure leads to, what a command does. Knows the groups only through `ports.ClusterPort`, so that
tests and a run in one process drive it without Ray. Imports settings.
"""
