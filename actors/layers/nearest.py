"""What was told, found by nearness: where a position's encoding is nearer to one at which something
was told than to any of the text that the memory keeps, the memory reads what is wanted there.

    distance            d_i = 1 − cos(u, k_i), where the cosine is the mean of that of encodings and
                        that of the bags of the last tokens (`token_bags`)
    share of key i      s_i = n_i d_i^−p / Z,   Z over all keys and all kept text
                        times (o / 0.3)^8 where the memory's own prediction overlaps by o < 0.3 with
                        that at the nearest key: it takes this for another question
    what is read        m + Σ_i s_i (wanted_i − m)
    freshness           Σ_i s_i, without the keys of what the data layer was taught too

So what is told is known as far as wordings have near encodings or share their rare tokens, and is
not known where the memory knows something nearer. Where a position shares hardly a token with any
key nothing was told, and kept text is not looked at. One subject has many facts: what was told of
one is not said of another where the memory expects another kind of answer. Distances count by their
ratios, so it is the same for encoders that tell texts far apart and for those that hardly do. It is
a function of the keys alone: the order in which they were told, and what was told and taken back,
leave no trace. Solves nothing: see `operators.closed_form` for a change of the value table itself.

Source: inverse distance weighting (Shepard 1968); all kept text has the value that the table gives.

Shapes: `...` any positions, P of them, Q of these near a key, N keys, O kept positions, D d_m, C
tokens of a context, W width of a bag, E = D + W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.places import SIMILARITIES, OfKeys, Places, beside, first_of, numerals_of
from actors.layers.predicted import log_probabilities
from actors.operators.numerals import NO_NUMERALS, Numerals
from actors.operators.parts import parts_of
from actors.operators.token_bags import TokenBags

POWER = 15.0  # p; see docs/decisions/0046
SHARED = 0.4  # cosine of bags below which nothing was told; held-out wordings have .55 and more
ALIKE = 0.3  # overlap of predictions from which questions are taken to be of one kind
UNLIKE = 8.0  # power of it over ALIKE, below: docs/decisions/0050
LEAST = 3e-7  # distance below which float32 can't tell encodings apart
NOT_BEGUN = 7.0  # log of how much less a later token of an answer counts where it was not begun
NOTHING = -9.0  # log of a share that is too small to count
DENORMAL = -60.0  # log of numbers from which on float32 is slow
PREDICTED = 64  # positions whose predictions are compared at a time


@dataclass(frozen=True, eq=False)
class Nearest:
    """All keys that are read, and the kept text near them.

    Attributes:
        keys_NE: encodings of the keys and the bags of their tokens, as `beside` puts them, and of
            aliases: the encodings of their keys; or encodings alone, E = D.
        wanted_ND: the sum of rows that is wanted at each.
        m_ND: what the table gives there; D is 0 where predictions are not compared.
        counts_N: how much each counts, n.
        fresh_N: 1 of what the data layer does not say, 0 of what it was taught.
        after_N: the token, plus 1, that comes before all but an answer's first; there 0.
        old_OE: the same as of the keys of kept text, and of patterns: the encodings of their keys.
        num_aliases, num_patterns: that come last of both; tokens alone tell them from their keys.
        numerals: by which numbers of contexts are one thing each.
    """

    keys_NE: Tensor
    wanted_ND: Tensor
    m_ND: Tensor
    counts_N: Tensor
    fresh_N: Tensor
    after_N: Tensor
    old_OE: Tensor
    num_aliases: int = 0
    num_patterns: int = 0
    numerals: Numerals = NO_NUMERALS

    @classmethod
    def of(
        cls,
        some: Sequence[tuple[Places, Tensor, Tensor, Tensor, Tensor]],
        live: Sequence[Tensor],
        told_P: Tensor,
        bags: TokenBags,
    ) -> Nearest:
        """Of several writes.

        Args:
            some: of each write its places, and what is wanted at its keys, how much each counts,
                whether it is fresh, and whether it is an answer's first.
            live: of each write, which of its keys no later one takes the place of, (N,) bool.
            told_P: contexts of which kept text counts no more, since something else was told there.
            bags: of tokens; none are compared where a write has none.
        """
        num = min((places.said_NC.shape[1] for places, *_ in some), default=0)
        dim = min((places.m_ND.shape[1] for places, *_ in some), default=0)
        u_ND, said_NC, m_ND, wanted_ND, counts_N, fresh_N, first_N = (
            torch.cat([part[at] for part, at in zip(parts, live, strict=True)])
            for parts in (
                [places.u_ND for places, *_ in some],
                [places.said_NC[:, :num] for places, *_ in some],
                [places.m_ND[:, :dim] for places, *_ in some],
                [wanted for _, wanted, *_ in some],
                [counts for _, _, counts, *_ in some],
                [fresh for *_, fresh, _ in some],
                [first for *_, first in some],
            )
        )
        old_MD = torch.cat([places.old_OD for places, *_ in some])
        old_said_MC = torch.cat([places.old_said_OC[:, :num] for places, *_ in some])
        contexts_M = torch.cat([places.contexts_O for places, *_ in some])
        told_P = torch.cat([told_P, *(places.gone_G for places, *_ in some)])
        order_M = contexts_M.argsort(stable=True)
        sorted_M = contexts_M[order_M]
        at_O = order_M[first_of(sorted_M) & ~torch.isin(sorted_M, told_P)]
        old_OD = old_MD[at_O]
        if not num:
            after_N = torch.zeros(len(u_ND), dtype=torch.int32)
            return cls(u_ND, wanted_ND, m_ND, counts_N, fresh_N, after_N, old_OD)
        after_N = said_NC[:, 0].masked_fill(first_N, 0)
        numerals = numerals_of(places for places, *_ in some)

        def both(u_PD: Tensor, said_PC: Tensor) -> Tensor:
            return beside(u_PD, bags(numerals.joined(said_PC)))

        keys_NE, old_OE = both(u_ND, said_NC), both(old_OD, old_said_MC[at_O])
        start_of = torch.tensor([0, *(int(at.sum()) for at in live)]).cumsum(0)[:-1].tolist()
        patterns, aliases = (
            OfKeys.concat(
                [
                    of_keys.kept(at, start)
                    for of_keys, at, start in zip(kind, live, start_of, strict=True)
                ],
                num,
            )
            for kind in (
                [places.patterns for places, *_ in some],
                [places.aliases for places, *_ in some],
            )
        )
        named_A, other_K = aliases.of_M, patterns.of_M
        return cls(
            torch.cat([keys_NE, both(u_ND[named_A], aliases.said_MC)]),
            torch.cat([wanted_ND, wanted_ND[named_A]]),
            torch.cat([m_ND, m_ND[named_A]]),
            torch.cat([counts_N, counts_N[named_A]]),
            torch.cat([fresh_N, fresh_N[named_A]]),
            torch.cat([after_N, after_N[named_A]]),
            torch.cat([old_OE, both(u_ND[other_K], patterns.said_MC)]),
            len(aliases),
            len(patterns),
            numerals,
        )

    def read(
        self,
        u: Tensor,
        m: Tensor,
        said_PC: Tensor | None,
        bags: TokenBags,
        predict: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """What is read instead of m (..., D), and its freshness (...).

        Args:
            u: encodings of P positions, (..., D).
            m: what the table gives there.
            said_PC: their last tokens; None: encodings alone are compared.
            bags: of tokens.
            predict: the memory's logits, from what it reads; a gate is left out.
        """
        u_PD, m_PD = F.normalize(u.reshape(-1, u.shape[-1]), dim=1), m.reshape(-1, m.shape[-1])
        found_PD, fresh_P = m_PD.clone(), m_PD.new_zeros(len(m_PD))
        if not len(self.keys_NE):
            return found_PD.view_as(m), fresh_P.view(u.shape[:-1])
        keys_NE, old_OE, u_PE = self.keys_NE, self.old_OE, u_PD
        if keys_NE.shape[1] > u_PD.shape[1]:
            if said_PC is None:
                return self._of_encodings.read(u, m, None, bags, predict)
            u_PE = beside(u_PD, bags(self.numerals.joined(said_PC)))
        at_P = self._sharing(u_PE)
        size = max(1, SIMILARITIES // (len(keys_NE) + len(old_OE) + 1))
        for some_P in at_P.split(size):
            near_PN, near_PO = u_PE[some_P] @ keys_NE.T, u_PE[some_P] @ old_OE.T
            reached_Q = self._reached(near_PN, near_PO).nonzero()[:, 0]  # few, mostly
            at_Q, near_QN = some_P[reached_Q], near_PN[reached_Q]
            told_QN = _closeness(near_QN) + self.counts_N.log()
            if said_PC is not None:
                begun_QN = (self.after_N == 0) | (self.after_N == said_PC[at_Q, :1])
                told_QN -= NOT_BEGUN * ~begun_QN
            total_Q = told_QN.logsumexp(1)
            if len(old_OE):
                old_Q = _closeness(near_PO[reached_Q]).logsumexp(1)
                total_Q = torch.logaddexp(total_Q, old_Q)
            share_QN = (told_QN - total_Q[:, None]).clamp_min_(DENORMAL).exp_()
            if self.m_ND.shape[1]:
                alike_Q = overlap(predict, m_PD[at_Q], self.m_ND[told_QN.argmax(1)])
                share_QN *= (alike_Q / ALIKE).clamp_max(1.0).pow(UNLIKE)[:, None]
            fresh_P[at_Q] = (share_QN * self.fresh_N).sum(1).clamp_max_(1)
            others_QD = share_QN.sum(1, keepdim=True).clamp_max_(1) * m_PD[at_Q]
            found_PD[at_Q] = m_PD[at_Q] + (share_QN @ self.wanted_ND - others_QD)
        return found_PD.view_as(m), fresh_P.view(u.shape[:-1])

    @cached_property
    def _of_encodings(self) -> Nearest:
        """The same without tokens."""
        width, num = self.wanted_ND.shape[1], len(self.keys_NE) - self.num_aliases
        of_keys = ("wanted_ND", "m_ND", "counts_N", "fresh_N", "after_N")
        cut: dict[str, Any] = {name: getattr(self, name)[:num] for name in of_keys}
        return replace(
            self,
            keys_NE=self.keys_NE[:num, :width] * math.sqrt(2),
            old_OE=self.old_OE[: len(self.old_OE) - self.num_patterns, :width] * math.sqrt(2),
            num_aliases=0,
            num_patterns=0,
            **cut,
        )

    def _sharing(self, u_PE: Tensor) -> Tensor:
        """Which positions share so many tokens with a key that they are looked at; all, where
        encodings alone are compared.
        """
        width = self.wanted_ND.shape[1]
        every_P = torch.arange(len(u_PE), device=u_PE.device)
        if u_PE.shape[1] == width:
            return every_P
        keys_WN, size = self.keys_NE[:, width:].T, max(1, SIMILARITIES // len(self.keys_NE))
        most = [(2 * part_PW @ keys_WN).amax(1) for part_PW in u_PE[:, width:].split(size)]
        return every_P[torch.cat(most) > SHARED] if most else every_P

    def _reached(self, near_PN: Tensor, near_PO: Tensor) -> Tensor:
        """Where the share of the keys may count, (P,); elsewhere the read keeps its bits."""
        if not near_PO.shape[1]:
            return torch.ones(len(near_PN), dtype=torch.bool, device=near_PN.device)
        most_P = _closeness(near_PN.amax(1)) + self.counts_N.sum().log()
        return most_P - _closeness(near_PO.amax(1)) > NOTHING

    def to(self, device: torch.device) -> Nearest:
        """The same on that device."""
        if self.keys_NE.device == device:
            return self
        tensors = ((name, x) for name, x in vars(self).items() if isinstance(x, Tensor))
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors}
        return replace(self, **moved, numerals=self.numerals.to(device))


@torch.no_grad()
def overlap(predict: Callable[[Tensor], Tensor], m_PD: Tensor, other_PD: Tensor) -> Tensor:
    """How alike the predictions from two reads are, (P,) in [0, 1]: the sum of √(p q) over all
    tokens (Bhattacharyya 1943).
    """
    found = [m_PD.new_zeros(0, dtype=torch.float32)]
    for some in parts_of(len(m_PD), PREDICTED):
        logp, logq = (log_probabilities(predict(x[some])) for x in (m_PD, other_PD))
        found.append(logp.add(logq).mul_(0.5).exp_().sum(-1))
    return torch.cat(found)


def _closeness(cosines: Tensor) -> Tensor:
    """log d^−p of each."""
    return (1 - cosines).clamp_min_(LEAST).log_().mul_(-POWER)
