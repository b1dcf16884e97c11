"""The groups' processes on Ray: started, asked, restarted, resized.

The only room that makes actors. Implements `loop.ports.ClusterPort`. Imports loop, nodes and
settings.
"""
