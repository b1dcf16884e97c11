"""The groups' processes on Ray: started, called, restarted, resized.

The only room that creates Ray actors. Implements `loop.ports.ClusterPort` and
`orchestrator.runtime`. Imports run_dir, loop, nodes and settings.
"""
