"""The object store of a run in one process: versions in memory, checkpoints on disk. No torch."""

from __future__ import annotations

import tempfile

import numpy as np

from actors.machine.host_memory import ByteArray


class HostStore:
    """Arrays that nobody can write to; a ref is the array itself."""

    def get(self, ref: ByteArray) -> ByteArray:
        """The array."""
        return ref

    def put(self, array: ByteArray) -> ByteArray:
        """A copy in memory: a trainer publishes views of its live weights."""
        own = array.copy()
        own.setflags(write=False)
        return own

    def put_on_disk(self, array: ByteArray) -> ByteArray:
        """A copy in a temporary file, which is gone with the last who holds the array."""
        if not array.size:
            return self.put(array)
        with tempfile.TemporaryFile(prefix="tandem-part-") as file:
            array.tofile(file)
            file.flush()
            return np.memmap(file, np.uint8, "r")
