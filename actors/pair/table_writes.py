"""A write as a change of the value table: rows that give what is wanted at its keys, solved in
closed form; reads of old text and of earlier such writes stay. For memories without encodings;
writes of earlier versions are such changes too. Called by `telling`.

Shapes: N keys, E slots of a key, D d_m, M kept reads, U rows that are written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.kept_reads import KeptReads
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import OPENS_AT, Association, Keys, NamedWrite, NamedWrites, novelty
from actors.machine.progress import Progress
from actors.measuring.told_keys import Located, says, unsure_tokens, wanted_reads
from actors.operators.closed_form import Overlay, SparseReads, WriteSystem

ROUNDS = 2  # of wanted reads: after the first, for those that others got in the way of
LOUDEST = 1000.0  # a read of old text counts 1
SURELY = 0.98  # share of the keys that the memory says as surely as a write's figures say
LOOKS, SOLVES = "looking for what has to be read", "solving the write"  # that `progress` sees
GAMMA = 1.0  # how much old reads count
# Reads that stay, those that share most with the keys. More are better, and slower; worst is about
# as many reads, new and old, as rows: each is then met exactly, by large values.
MOST_STAYING = 16384
RIDGE = 1e-2  # λ: at a tenth of it others change more, at ten times less is known in other wordings
SOLVED_AGAIN = 0.02  # share of a wanted read by which it must have changed
WITHHELD = 8  # of so many kept reads one has no part in writes, and shows what they do elsewhere
QUIET = 0.95  # share of these that stay below the novelty from which λ opens
LEAST, MOST = 0.3, 0.6  # novelty from which it opens, whatever they say


def read_sum(memory: MemoryLayer, writes: NamedWrites, reads: SparseReads) -> tuple[Tensor, Tensor]:
    """What reads get from the table and these writes, (N, D), and their mark, (N,); on the CPU."""
    values_RD, place_NE = memory.values.detach(), reads.slots_NE
    if values_RD.device.type != "cpu" or values_RD.dtype != torch.float32:
        rows_U, place_P = reads.slots_NE.unique(return_inverse=True)
        values_RD = values_RD[rows_U.to(values_RD.device)].float().cpu()
        place_NE = place_P.view_as(reads.slots_NE)
    m_ND = F.embedding_bag(place_NE, values_RD, per_sample_weights=reads.weights_NE, mode="sum")
    overlay = writes.overlay(m_ND.device)
    if overlay is None:
        return m_ND, m_ND.new_zeros(len(m_ND))
    told_ND, mark_N = overlay.read(reads.slots_NE, reads.weights_NE)
    return m_ND + told_ND, mark_N


@dataclass(frozen=True)
class Naming:
    """What a write is called, when it was told, and what was."""

    id: str
    told_at: float
    associations: tuple[Association, ...]


@dataclass(frozen=True)
class Staying:
    """Reads that are to stay, by how much each has moved away from what it was to be, and how much
    each counts.
    """

    reads: SparseReads
    back_MC: Tensor
    gamma_M: Tensor


def staying_of(
    memory: MemoryLayer,
    keys: SparseReads,
    prompts_N: Tensor,
    writes: NamedWrites,
    kept: KeptReads,
) -> Staying:
    """Kept reads, and keys of earlier writes that are on: those that share most with the keys.

    Those of the prompts that are told are left out, whose place is taken. Earlier keys are brought
    back to what they were solved for, and kept reads to what the table alone gives, so that small
    changes of many writes do not add up.
    """
    kept = kept.few
    told_P = torch.cat([prompts_N, *(write.keys.prompts_N for write in writes.on)])
    old = kept.heaviest.at(~withheld(kept) & ~torch.isin(kept.contexts_M, told_P))
    earlier = [w.keys.at(~torch.isin(w.keys.prompts_N, prompts_N)) for w in writes.solved]
    told = Keys.concat(earlier) if earlier else None
    told_reads = [] if told is None else [SparseReads(told.slots_NE, told.weights_NE)]
    reads = SparseReads.concat([old, *told_reads])
    chosen_M = _sharing_most(reads, keys, MOST_STAYING)
    reads = reads.at(chosen_M)
    back_MC = torch.zeros(len(reads), memory.spec.dim + 1)
    gamma_M = torch.full((len(reads),), GAMMA)
    if (overlay := writes.overlay(back_MC.device)) is not None:
        told_MD, mark_M = overlay.read(reads.slots_NE, reads.weights_NE)
        back_MC = -torch.cat([told_MD, mark_M[:, None]], dim=1)
    if told is not None and len(at_T := (chosen_M >= len(old)).nonzero()[:, 0]):
        wanted_TD = told.wanted_ND[chosen_M[at_T] - len(old)]
        m_TD, mark_T = read_sum(memory, writes, reads.at(at_T))
        back_MC[at_T] = torch.cat([wanted_TD - m_TD, (1 - mark_T)[:, None]], dim=1)
        gamma_M[at_T] = told.counts_N[chosen_M[at_T] - len(old)]
    return Staying(reads, back_MC, gamma_M)


def _sharing_most(reads: SparseReads, keys: SparseReads, most: int) -> Tensor:
    """Places of at most so many reads, ascending: those that share most with the keys."""
    if len(reads) <= most:
        return torch.arange(len(reads))
    num_slots = int(max(keys.slots_NE.max(), reads.slots_NE.max())) + 1
    mass_R = torch.bincount(keys.slots_NE.flatten(), keys.weights_NE.flatten(), num_slots)
    shared_M = (mass_R[reads.slots_NE] * reads.weights_NE).sum(1)
    return shared_M.topk(most).indices.sort().values


def withheld(kept: KeptReads) -> Tensor:
    """Which of the kept reads take no part in writes, (M,): on them λ's opening is calibrated."""
    return torch.arange(len(kept)) % WITHHELD == 0


def solved_write(
    memory: MemoryLayer,
    located: Located,
    about: Naming,
    kept: KeptReads,
    louder: float,
    progress: Progress,
) -> NamedWrite:
    """A write that is added to the table: its rows are solved for."""
    reads, device = located.reads, memory.values.device
    targets_N = located.targets_N.to(device)
    m_ND, mark_N = read_sum(memory, memory.writes, reads)
    counts_N = torch.ones(len(reads))
    system, there = _system(memory, reads, located.prompts_N, counts_N, memory.writes, kept)

    def wanted_from(sum_ND: Tensor) -> Tensor:
        return wanted_reads(memory, sum_ND.to(device), located.u_ND, targets_N).cpu()

    progress(LOOKS)
    wanted_ND = wanted_from(m_ND)
    first_wanted_ND, round_, x_UC = wanted_ND, 0, None
    while True:
        progress(SOLVES)
        change_NC = torch.cat([wanted_ND - m_ND, (1 - mark_N)[:, None]], dim=1)
        x_UC, residual = system.solve(change_NC, *there, near_UC=x_UC)
        reached_ND, round_ = m_ND + system.changed(x_UC)[:, :-1], round_ + 1
        progress(LOOKS)
        if round_ < ROUNDS and not torch.equal(more_ND := wanted_from(reached_ND), reached_ND):
            wanted_ND = wanted_ND + (more_ND - reached_ND)  # on from what others got in the way of
            continue
        said = says(memory, reached_ND.to(device), located.u_ND, targets_N)
        said_N, entropy_N = (found.cpu() for found in said)
        if said_N.all() or counts_N.max() * louder > LOUDEST:
            break
        # A memory whose addresses hardly tell texts apart would say what it said before.
        counts_N = torch.where(said_N, counts_N, counts_N * louder)
        system, there = _system(memory, reads, located.prompts_N, counts_N, memory.writes, kept)
        wanted_ND, round_ = first_wanted_ND, 0
    return NamedWrite(
        about.id,
        about.told_at,
        about.associations,
        system.rows_U,
        x_UC[:, :-1].contiguous(),
        x_UC[:, -1].contiguous(),
        Keys(
            reads.slots_NE,
            reads.weights_NE,
            wanted_ND,
            located.targets_N,
            located.prompts_N,
            counts_N,
        ),
        {
            "keys": float(len(reads)),
            "rows": float(len(system.rows_U)),
            "staying": float(system.num_staying),
            "residual": residual,
            "entropy": float(entropy_N.quantile(SURELY)),
        },
        unsure=unsure_tokens(located.targets_N, entropy_N),
    )


@torch.no_grad()
def replay(
    memory: MemoryLayer,
    writes: NamedWrites,
    gone: NamedWrite | None,
    come: NamedWrite | None,
    kept: KeptReads,
) -> None:
    """Goes through the writes in order, and solves those again whose reads have changed.

    Args:
        writes: as they are to be.
        gone, come: the write that is read no more, or again.
    """
    at = next((i for i, w in enumerate(memory.writes) if w in (gone, come)), len(writes))
    before, after = ([w for w in (some,) if w and w.places is None] for some in (gone, come))
    done = NamedWrites(writes.writes[:at])
    for write in writes.writes[at:]:
        new = write
        if write.places is None and write.on and write is not come and (before or after):
            keys = write.keys
            change_ND, _ = Overlay.of(after, before).read(keys.slots_NE, keys.weights_NE)
            size_N = keys.wanted_ND.norm(dim=1).clamp_min(1e-12)
            if float((change_ND.norm(dim=1) / size_N).max()) > SOLVED_AGAIN:
                new = _solved_again(memory, write, done, kept)
                before, after = [*before, write], [*after, new]
        done = done.add(new)
    memory.writes = calibrated(memory, done, kept)


def _solved_again(
    memory: MemoryLayer, write: NamedWrite, before: NamedWrites, kept: KeptReads
) -> NamedWrite:
    keys = write.keys
    reads = SparseReads(keys.slots_NE, keys.weights_NE)
    m_ND, mark_N = read_sum(memory, before, reads)
    system, there = _system(memory, reads, keys.prompts_N, keys.counts_N, before, kept)
    change_NC = torch.cat([keys.wanted_ND - m_ND, (1 - mark_N)[:, None]], dim=1)
    x_UC, residual = system.solve(change_NC, *there)
    return replace(
        write,
        rows_U=system.rows_U,
        values_UD=x_UC[:, :-1].contiguous(),
        mark_U=x_UC[:, -1].contiguous(),
        figures={**write.figures, "residual": residual},
    )


def _system(
    memory: MemoryLayer,
    reads: SparseReads,
    prompts_N: Tensor,
    counts_N: Tensor,
    writes: NamedWrites,
    kept: KeptReads,
) -> tuple[WriteSystem, tuple[Tensor, Tensor | None]]:
    """What is solved for one write, after these; by how much what stays is to come back, and what
    these have added to the rows.

    So each write takes the sum of all a step down in what one write of everything would minimise.
    """
    staying = staying_of(memory, reads, prompts_N, writes, kept)
    system = WriteSystem(reads, staying.reads, staying.gamma_M, RIDGE, counts_N)
    overlay = writes.overlay(staying.back_MC.device)
    before_UC = None if overlay is None else overlay.of_rows(system.rows_U)
    return system, (staying.back_MC, before_UC)


@torch.no_grad()
def calibrated(memory: MemoryLayer, writes: NamedWrites, kept: KeptReads) -> NamedWrites:
    """The writes, and the novelty from which λ opens: that of old text that they were not solved
    for stays below it, but for a few positions.
    """
    if writes.overlay() is None:
        return writes.opening_at(OPENS_AT)
    kept = kept.few
    told_P = torch.cat([write.keys.prompts_N for write in writes.on])
    reads = kept.reads.at(withheld(kept) & ~torch.isin(kept.contexts_M, told_P))
    if not len(reads):
        return writes.opening_at(OPENS_AT)
    m_MD, _ = read_sum(memory, NamedWrites(), reads)
    both_MD, mark_M = read_sum(memory, writes, reads)
    opens_at = float(novelty(m_MD, both_MD - m_MD, mark_M).quantile(QUIET))
    return writes.opening_at(min(max(opens_at, LEAST), MOST))
