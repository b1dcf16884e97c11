"""What a running run was told, solved for a version of its memory by whoever reads that version.

A version travels with its associations, never with rows: those depend on the table, which the next
interval changes. The same version gives the same writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, NamedWrites
from actors.pair.telling import tell
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import Told


def solve_told(memory: MemoryLayer, tokenizer: Tokenizer, told: Sequence[Told]) -> tuple[str, ...]:
    """Makes these the memory's named writes, in their order; returns a sentence for each that can't
    be told.

    Args:
        memory: with the sample of its text that it keeps.
        tokenizer: the run's.
        told: as a version's header has it.
    """
    memory.writes = NamedWrites()
    if not told:
        return ()
    assert memory.kept is not None
    warnings, kept = [], KeptReads.of(memory, memory.kept)
    for one in told:
        some = [Association(a.prompt, a.answer, a.wordings) for a in one.associations]
        try:
            tell(memory, tokenizer, some, kept, one.id, one.told_at)
        except ValueError as err:
            warnings.append(f"what the run was told as {one.id} is left out: {err}")
    return tuple(warnings)
