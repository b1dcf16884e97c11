"""`tandem serve`: a finished run's pair over HTTP, which can be told while it serves.

Imports jobs.tell and what that may import; FastAPI and Ray Serve are imported here alone.
"""
