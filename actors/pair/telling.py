"""Tells a memory something at once: associations become a named write, without training.

    prompt, answer -> keys: what the memory reads at each answer position, in each wording
                   -> wanted reads: gradient steps on the reads alone, nothing else in the graph
                   -> a `NamedWrite`, kept beside the table: it is found where an encoding is nearer
                      to a key than to kept text (`layers.nearest`), and there opens λ
                   -> or, of a memory without encodings: rows that give the wanted reads, solved
                      (`operators.closed_form`); reads of old text and of earlier writes stay; and
                      the mark that opens λ

No weight is trained and the table keeps its bits. Called by `TandemModel`.

Shapes: N keys, O kept positions, D d_m.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import Association, Keys, NamedWrite, NamedWrites
from actors.layers.places import KeptPlaces, Places, numerals_of
from actors.machine.progress import Progress, unseen
from actors.measuring.subjects import Subject, aliases, patterns
from actors.measuring.told_keys import (
    Located,
    locate,
    says,
    sequences,
    subjects_of,
    sure_tokens,
    unsure_tokens,
    wanted_reads,
)
from actors.operators.numerals import NO_NUMERALS, Numerals
from actors.operators.token_bags import set_numbers
from actors.pair.table_writes import (
    LOOKS,
    LOUDEST,
    ROUNDS,
    SURELY,
    Naming,
    calibrated,
    read_sum,
    replay,
    solved_write,
)
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import Told

COMPARES = "comparing with the text that is to stay"  # that `progress` sees
LOUDER = 30.0  # times as much a key counts where the memory would still say something else


@torch.no_grad()
def tell(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    associations: Sequence[Association],
    kept: KeptReads,
    id: str,
    told_at: float | None = None,
    longest: int | None = None,
    louder: float = LOUDER,
    taught: bool = False,
    progress: Progress = unseen,
) -> NamedWrite:
    """Writes these associations, after what was told before; the memory reads them from now on.

    Args:
        memory: told in place: its `writes` become others, its parameters keep their bits.
        tokenizer: the run's.
        associations: what is to be known.
        kept: the memory's sample of its own reads, from `keep`.
        id: the write's name.
        told_at: seconds since 1970; None: now.
        longest: tokens that the model reads at most.
        louder: times as much a key counts, again and again, until the memory says all of it.
        taught: as `NamedWrite` has it.
        progress: sees what is being done; how many rounds it takes is not known before.

    Raises:
        ValueError: as `sequences`; a subject that no prompt names; a write of that name is there
            already.
    """
    begin = time.perf_counter()
    if id in memory.writes:
        raise ValueError(f"there is a write {id!r} already; give another id")
    progress("reading what is told")
    located = locate(memory, sequences(tokenizer, associations, longest))
    about = Naming(id, time.time() if told_at is None else told_at, tuple(associations))
    if memory.ngrams is not None:
        write = solved_write(memory, located, about, kept, louder, progress)
    else:
        numerals = Numerals.of(tokenizer.numerals)
        if not numerals.are_in(located.said_NC.cpu()):
            numerals = NO_NUMERALS
        subjects = subjects_of(tokenizer, associations, numerals)
        write = _found(memory, located, about, kept, subjects, numerals, louder, progress)
    figures = {**write.figures, "seconds": time.perf_counter() - begin}
    write = replace(write, figures=figures, taught=taught)
    writes = memory.writes.add(write)
    memory.writes = writes if write.places is not None else calibrated(memory, writes, kept)
    return write


def _found(
    memory: MemoryLayer,
    located: Located,
    about: Naming,
    kept: KeptReads,
    subjects: Mapping[int, Subject],
    numerals: Numerals,
    louder: float,
    progress: Progress,
) -> NamedWrite:
    """A write that is found by nearness: what is wanted at its keys, and where they are."""
    device, targets_N = memory.values.device, located.targets_N.to(memory.values.device)
    m_ND, _ = read_sum(memory, NamedWrites(), located.reads)
    progress(LOOKS)
    wanted_ND = m_ND.to(device)
    for _ in range(ROUNDS):
        wanted_ND = wanted_reads(memory, wanted_ND, located.u_ND, targets_N)
    wanted_ND = wanted_ND.cpu()
    progress(COMPARES)
    was_N = sure_tokens(memory, m_ND.to(device), located.u_ND).cpu()
    was_N[was_N == located.targets_N] = -1
    u_ND, said_NC = F.normalize(located.u_ND, dim=1).cpu(), located.said_NC.cpu()
    old = kept.places
    whole_NC = numerals.joined(said_NC)
    others, again = (
        make(memory.token_bags, whole_NC, located.prompts_N, subjects)
        for make in (patterns, aliases)
    )
    near = u_ND, said_NC, m_ND.cpu(), located.prompts_N, was_N
    places = Places.of(*near, old, others, again, numerals)
    none, num = torch.zeros(0, dtype=torch.int64), len(targets_N)
    counts_N = torch.ones(num)
    keys = Keys(
        torch.zeros(num, 0, dtype=torch.int64),
        torch.zeros(num, 0),
        wanted_ND,
        located.targets_N,
        located.prompts_N,
        counts_N,
    )
    write = NamedWrite(
        about.id,
        about.told_at,
        about.associations,
        none,
        torch.zeros(0, memory.spec.dim),
        torch.zeros(0),
        keys,
        places=places,
    )
    able_N, entropy_N = (
        x.cpu() for x in says(memory, wanted_ND.to(device), located.u_ND, targets_N)
    )
    said_N, share_N = able_N.clone(), torch.ones(num)
    bags, at_L = memory.token_bags, _crowded(memory.writes, places, old)
    while len(at_L):
        nearest = memory.writes.add(write).nearest(bags, device)
        assert nearest is not None
        some_L = at_L.to(device)
        u_LD, m_LD = located.u_ND[some_L], m_ND[at_L].to(device)
        said_LC = located.said_NC[some_L]
        reached_LD, share_L = nearest.read(u_LD, m_LD, said_LC, bags, memory.predict)
        said_L, entropy_L = says(memory, reached_LD, u_LD, targets_N[some_L])
        said_N[at_L], entropy_N[at_L], share_N[at_L] = said_L.cpu(), entropy_L.cpu(), share_L.cpu()
        at_L = (able_N & ~said_N).nonzero()[:, 0]  # kept text is too near
        if counts_N.max() * louder > LOUDEST:
            break
        if len(at_L):
            counts_N = counts_N.index_fill(0, at_L, float(counts_N[at_L].max()) * louder)
            write = replace(write, keys=replace(keys, counts_N=counts_N))
    figures = {
        "keys": float(num),
        "kept": float(len(places.old_OD)),
        "share": float(share_N.mean()),
        "entropy": float(entropy_N.quantile(SURELY)),
    }
    return replace(write, figures=figures, unsure=unsure_tokens(located.targets_N, entropy_N))


def _crowded(writes: NamedWrites, places: Places, old: KeptPlaces) -> Tensor:
    """The keys (L,) at which something else may be read: a context of the same tokens is kept, was
    told, or belongs to a key. At all others what is wanted there is read: nothing else is as near.
    """
    said_NC, others = places.said_NC, [old.said_OC, places.patterns.said_MC, places.aliases.said_MC]
    earlier = [write.places for write in writes if write.places is not None]
    for other in earlier:
        others += [other.said_NC, other.patterns.said_MC, other.aliases.said_MC]
    if any(not said.shape[1] for said in others):  # beside one, encodings alone are compared
        return torch.arange(len(said_NC))
    joined = numerals_of([places, *earlier]).joined
    numbers = [set_numbers(joined(said)) for said in (said_NC, *others)]
    _, at_M, num_M = torch.cat(numbers).unique(return_inverse=True, return_counts=True)
    return (num_M[at_M[: len(said_NC)]] > 1).nonzero()[:, 0]


def free_id(writes: NamedWrites) -> str:
    """A name that no write has: the number after the highest."""
    numbers = [int(write.id) for write in writes if write.id.isdecimal()]
    return str(max(numbers, default=0) + 1)


def untell(memory: MemoryLayer, id: str, kept: KeptReads) -> None:
    """Takes a write back. Of those that are added to the table, later ones whose reads it changed
    are solved again from their keys; the others are what they would be without it. With none left,
    the memory reads its table alone, with the bits that it had.

    Raises:
        KeyError: there is no write of that name.
    """
    gone = memory.writes.get(id)
    replay(memory, memory.writes.remove(id), gone if gone.on else None, None, kept)


def switch(memory: MemoryLayer, id: str, on: bool, kept: KeptReads) -> None:
    """Switches a write off or on; later ones are solved again as by `untell`.

    Raises:
        KeyError: there is no write of that name.
    """
    write = memory.writes.get(id)
    if write.on != on:
        changed = memory.writes.switch(id, on)
        replay(memory, changed, write if write.on else None, write if on else None, kept)


def solve_told(memory: MemoryLayer, tokenizer: Tokenizer, told: Sequence[Told]) -> tuple[str, ...]:
    """Makes what a running run was told the named writes of a version of its memory, in their
    order; returns a sentence for each that can't be told.

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
        some = [Association.of(association) for association in one.associations]
        try:
            tell(memory, tokenizer, some, kept, one.id, one.told_at, taught=one.taught)
        except ValueError as err:
            warnings.append(f"what the run was told as {one.id} is left out: {err}")
    return tuple(warnings)
