"""What decides and wires: the only floor with actor handles, placement groups and object refs.

`run.py` runs a whole run, `runtime.py` says what it asks of the place where the groups are,
`errors.py` has the typed errors of the driver, `background.py` a
thread with a queue. Rooms import each other in one direction only, in
the order settings, loop, run_dir, reporting. Nodes and processes know Ray; in_process takes the
place of both in a run without it.
"""
