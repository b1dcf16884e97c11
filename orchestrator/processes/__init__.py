"""The groups' processes on Ray: started, called, restarted, resized.

The only room that creates Ray actors. Implements `loop.ports.ClusterPort`. Imports loop, nodes and
settings.
"""
