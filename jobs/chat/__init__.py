"""`tandem chat`: talks with a finished run's pair in a terminal, and tells it while talking.

Imports jobs.tell and what that may import.
"""
