"""The object store of a run in one process: arrays in its memory. No torch."""

from __future__ import annotations

from actors.machine.host_memory import ByteArray


class HostStore:
    """Arrays in this process' memory; a ref is the array itself."""

    def get(self, ref: ByteArray) -> ByteArray:
        """The array."""
        return ref

    def put(self, array: ByteArray) -> ByteArray:
        """A copy that nobody can write to: a trainer publishes views of its live weights."""
        own = array.copy()
        own.setflags(write=False)
        return own
