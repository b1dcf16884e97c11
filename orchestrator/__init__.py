"""What decides and wires: the only floor with actor handles, placement groups and object refs.

`run.py` runs a whole run, `errors.py` has the typed errors of the driver, `background.py` a thread
with a queue. Rooms import each other
in one direction only, in the order settings, loop, run_dir, reporting; nodes and processes stand
beside loop and know Ray.
"""
