"""What was told, found by nearness: where a position's encoding is nearer to one at which something
was told than to any of the text that the memory keeps, the memory reads what is wanted there.

    distance            d_i = 1 − cos(u, k_i)
    share of key i      s_i = n_i d_i^−p / Z,   Z over all keys and all kept text
    what is read        m + Σ_i s_i (wanted_i − m)
    freshness           Σ_i s_i

So what is told is known as far as wordings have near encodings, and is not known where the memory
knows something nearer. Distances count by their ratios, so it is the same for encoders that tell
texts far apart and for those that hardly do. It is a function of the keys alone: the order in which
they were told, and what was told and taken back, leave no trace. Knows no tokens. Solves nothing:
see `operators.closed_form` for a change of the value table itself.

Source: inverse distance weighting (Shepard 1968); all kept text has the value that the table gives.

Shapes: `...` any positions, P of them, Q of these near a key, N keys, O kept positions, D d_m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

POWER = 15.0  # p; see docs/decisions/0046
LEAST = 3e-7  # distance below which float32 can't tell encodings apart
NOTHING = -9.0  # log of a share that is too small to count
DENORMAL = -60.0  # log of numbers from which on float32 is slow
SIMILARITIES = 1 << 20  # made at a time
NEIGHBOURS = 16  # kept positions that each key brings along


@dataclass(frozen=True, eq=False)
class Places:
    """Where one write was told, and the kept text nearby.

    Attributes:
        u_ND: encodings of its keys, of length 1, float32.
        old_OD: encodings of kept text near any of them, of length 1.
        contexts_O: a number for the document's tokens up to each, as `kept_reads.number_of` gives.
    """

    u_ND: Tensor
    old_OD: Tensor
    contexts_O: Tensor

    @classmethod
    def of(cls, u_ND: Tensor, old_OD: Tensor, contexts_O: Tensor) -> Places:
        """Encodings of keys, and those of all kept text, each context once: the nearest stay."""
        u_ND, old_OD = F.normalize(u_ND, dim=1), F.normalize(old_OD, dim=1)
        if len(u_ND) * NEIGHBOURS >= len(old_OD):
            return cls(u_ND, old_OD, contexts_O)
        size = max(1, SIMILARITIES // len(old_OD))
        near = [(part @ old_OD.T).topk(NEIGHBOURS, dim=1).indices for part in u_ND.split(size)]
        at_O = torch.cat(near).unique()
        return cls(u_ND, old_OD[at_O], contexts_O[at_O])

    def to_tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, eq=False)
class Nearest:
    """All keys that are read, and the kept text near them.

    Attributes:
        u_ND: encodings of the keys, of length 1.
        wanted_ND: the sum of rows that is wanted at each.
        counts_N: how much each counts, n.
        old_OD: encodings of kept text, of length 1.
    """

    u_ND: Tensor
    wanted_ND: Tensor
    counts_N: Tensor
    old_OD: Tensor

    @classmethod
    def of(
        cls,
        some: Sequence[tuple[Places, Tensor, Tensor]],
        live: Sequence[Tensor],
        told_P: Tensor,
    ) -> Nearest:
        """Of several writes.

        Args:
            some: of each write its places, and what is wanted at its keys and how much each counts.
            live: of each write, which of its keys no later one takes the place of, (N,) bool.
            told_P: contexts of which kept text counts no more, since something else was told there.
        """
        u_ND, wanted_ND, counts_N = (
            torch.cat([part[at] for part, at in zip(parts, live, strict=True)])
            for parts in (
                [places.u_ND for places, _, _ in some],
                [wanted for _, wanted, _ in some],
                [counts for _, _, counts in some],
            )
        )
        old_MD = torch.cat([places.old_OD for places, _, _ in some])
        contexts_M = torch.cat([places.contexts_O for places, _, _ in some])
        order_M = contexts_M.argsort(stable=True)
        sorted_M = contexts_M[order_M]
        first_M = torch.ones(len(sorted_M), dtype=torch.bool)
        first_M[1:] = sorted_M[1:] != sorted_M[:-1]
        at_O = order_M[first_M & ~torch.isin(sorted_M, told_P)]
        return cls(u_ND, wanted_ND, counts_N, old_MD[at_O])

    def read(self, u: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """What is read instead of m (..., D) at encodings u (..., D), and its freshness (...)."""
        u_PD, m_PD = F.normalize(u.reshape(-1, u.shape[-1]), dim=1), m.reshape(-1, m.shape[-1])
        found_PD, share_P = m_PD.clone(), m_PD.new_zeros(len(m_PD))
        size = max(1, SIMILARITIES // (len(self.u_ND) + len(self.old_OD) + 1))
        for start in range(0, len(u_PD) if len(self.u_ND) else 0, size):
            near_PN = u_PD[start : start + size] @ self.u_ND.T
            near_PO = u_PD[start : start + size] @ self.old_OD.T
            at_Q = start + self._reached(near_PN, near_PO).nonzero()[:, 0]  # few, mostly
            told_QN = _closeness(near_PN[at_Q - start]) + self.counts_N.log()
            total_Q = told_QN.logsumexp(1)
            if len(self.old_OD):
                old_Q = _closeness(near_PO[at_Q - start]).logsumexp(1)
                total_Q = torch.logaddexp(total_Q, old_Q)
            share_QN = (told_QN - total_Q[:, None]).clamp_min_(DENORMAL).exp_()
            share_P[at_Q] = share_QN.sum(1).clamp_max(1)
            others_QD = share_P[at_Q, None] * m_PD[at_Q]
            found_PD[at_Q] = m_PD[at_Q] + (share_QN @ self.wanted_ND - others_QD)
        return found_PD.view_as(m), share_P.view(u.shape[:-1])

    def _reached(self, near_PN: Tensor, near_PO: Tensor) -> Tensor:
        """Where the share of the keys may count, (P,); elsewhere the read keeps its bits."""
        if not near_PO.shape[1]:
            return torch.ones(len(near_PN), dtype=torch.bool, device=near_PN.device)
        most_P = _closeness(near_PN.amax(1)) + self.counts_N.sum().log()
        return most_P - _closeness(near_PO.amax(1)) > NOTHING

    def to(self, device: torch.device) -> Nearest:
        """The same on that device."""
        if self.u_ND.device == device:
            return self
        return Nearest(*(getattr(self, f.name).to(device) for f in fields(self)))


def _closeness(cosines: Tensor) -> Tensor:
    """log d^−p of each."""
    return (1 - cosines).clamp_min_(LEAST).log_().mul_(-POWER)
