"""The encodings of the text that a memory keeps, beside its export: made at the first tell, which
takes seconds, and read by every later process.

    DIR/memory_layer/writes/sample-DIGEST.safetensors     of the memory, of the text

A copy of what `KeptReads.of` makes, never needed: where it is missing, damaged or of another memory
or text it is made again, and where it can't be kept the next process makes it. Any fsspec URL.
"""

from __future__ import annotations

from contextlib import suppress

import safetensors
import safetensors.torch
import xxhash

from actors.corpus.windows import Windows
from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.storage import locate, put_file, remove, storage_errors, writable
from actors.weights.export_files import WRITES
from actors.wire import StorageError

FORMAT = 1
NAME, ENDING = "sample-", ".safetensors"


class SampleStore:
    """The sample of one export.

    Args:
        directory: of the export; any fsspec URL.
    """

    def __init__(self, directory: str) -> None:
        self._url = f"{directory.rstrip('/')}/{WRITES}"

    def read(self, memory: MemoryLayer, trained: str) -> KeptReads | None:
        """What `write` kept of this memory and its text; None: nothing, or nothing usable.

        Args:
            memory: as it is loaded, with the text that it keeps.
            trained: checksum of what was trained of it.
        """
        if memory.kept is None:
            return None
        with suppress(FileNotFoundError, StorageError, safetensors.SafetensorError, KeyError):
            with storage_errors(self._url, "can't be read"):
                fs, folder = locate(self._url)
                found = fs.cat_file(f"{folder}/{_name(memory.kept, trained)}")
            tensors = safetensors.torch.load(found)
            u_MD, targets_M, contexts_M, said_MC = (tensors[name] for name in KeptReads.TENSORS)
            return KeptReads(memory, u_MD, targets_M, contexts_M, said_MC)
        return None

    def write(self, reads: KeptReads, trained: str) -> None:
        """Keeps it instead of any other; where that fails, nothing is kept."""
        text = reads.memory.kept
        assert text is not None
        tensors = {name: getattr(reads, name).contiguous() for name in KeptReads.TENSORS}
        with suppress(StorageError), storage_errors(self._url, "can't be written"):
            fs, folder = writable(self._url)
            name = _name(text, trained)
            put_file(fs, f"{folder}/{name}", safetensors.torch.save(tensors))
            for path in fs.glob(f"{folder}/{NAME}*{ENDING}"):
                if not path.endswith(name):
                    remove(fs, path)


def _name(text: Windows, trained: str) -> str:
    digest = xxhash.xxh3_64(f"{FORMAT} {trained}".encode())
    for array in (text.tokens_NT, text.segments_NT, text.learn_NT):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return f"{NAME}{digest.hexdigest()}{ENDING}"
