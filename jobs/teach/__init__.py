"""`tandem teach`: the data layer of a finished run takes over what a person or the memory wants.

Imports jobs.tell, actors.lessons, actors.pair and the orchestrator.
"""
