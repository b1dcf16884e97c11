"""Where something was told, as a value: the keys of one write with what belongs to them, and the
kept text near them. Reads nothing: `layers.nearest` does.

Shapes: N keys, O kept positions, M contexts that belong to keys, A aliases, D d_m, C tokens of a
context, W width of a bag, E = D + W, P positions, G contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from actors.operators.numerals import NO_NUMERALS, Numerals
from actors.operators.token_bags import TokenBags

SAME = 0.7  # cosine of bags from which texts are taken to be about the same
SIMILARITIES = 1 << 20  # made at a time
NEIGHBOURS = 16  # kept positions that each key brings along


@dataclass(frozen=True, eq=False)
class KeptPlaces:
    """All kept text, each context once.

    Attributes:
        bags: of tokens.
        u_OD: encodings, of length 1.
        said_OC: last tokens.
        bags_OW: their bags.
        contexts_O: a number for the document's tokens up to each.
        targets_O: the token that follows.
    """

    bags: TokenBags
    u_OD: Tensor
    said_OC: Tensor
    bags_OW: Tensor
    contexts_O: Tensor
    targets_O: Tensor

    def __len__(self) -> int:
        return len(self.u_OD)

    def joined(self, numerals: Numerals) -> KeptPlaces:
        """With numbers as one thing each."""
        if not len(numerals):
            return self
        return replace(self, bags_OW=self.bags(numerals.joined(self.said_OC)))

    def at(self, where_O: Tensor) -> KeptPlaces:
        """Some of it."""
        tensors = (getattr(self, f.name)[where_O] for f in fields(self) if f.name != "bags")
        return KeptPlaces(self.bags, *tensors)


@dataclass(frozen=True, eq=False)
class OfKeys:
    """Contexts that belong to keys.

    Attributes:
        said_MC: last tokens, as `token_bags.last_tokens` gives them.
        of_M: the key that each belongs to, int64.
    """

    said_MC: Tensor
    of_M: Tensor

    def __len__(self) -> int:
        return len(self.of_M)

    def at(self, where_M: Tensor) -> OfKeys:
        """Some of them: a mask, or places."""
        return OfKeys(self.said_MC[where_M], self.of_M[where_M])

    def kept(self, live_N: Tensor, start: int) -> OfKeys:
        """Of the keys that are live, which are numbered from `start` on."""
        some = self.at(live_N[self.of_M])
        return OfKeys(some.said_MC, (live_N.long().cumsum(0) - 1 + start)[some.of_M])

    @classmethod
    def concat(cls, some: Sequence[OfKeys], num_tokens: int) -> OfKeys:
        """All of them; of each context the last tokens alone."""
        parts = [cls.none(num_tokens), *(OfKeys(o.said_MC[:, :num_tokens], o.of_M) for o in some)]
        return cls(torch.cat([o.said_MC for o in parts]), torch.cat([o.of_M for o in parts]))

    @classmethod
    def none(cls, num_tokens: int) -> OfKeys:
        """Of no key; contexts of so many tokens."""
        return cls(torch.zeros(0, num_tokens, dtype=torch.int32), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Places:
    """Where one write was told, and the kept text nearby.

    Attributes:
        u_ND: encodings of its keys, of length 1, float32.
        said_NC: their last tokens, as `token_bags.last_tokens` gives them; C is 0 in writes of an
            earlier version, beside which encodings alone count.
        old_OD: encodings of kept text near any of them, of length 1.
        old_said_OC: its last tokens.
        contexts_O: a number for the document's tokens up to each, as `kept_reads.number_of` gives.
        gone_G: contexts of kept text that says what is no longer so, and counts no more.
        m_ND: what the table gives at the keys; D is 0 in writes of an earlier version, of which
            predictions are not compared.
        patterns: the keys' contexts without what they are about; none in writes of an earlier
            version.
        aliases: the keys' contexts where what they are about has other tokens; the same.
        numerals: tokens that are digits, by which numbers are told apart; none where no key has
            one, and in writes of an earlier version.
    """

    u_ND: Tensor
    said_NC: Tensor
    old_OD: Tensor
    old_said_OC: Tensor
    contexts_O: Tensor
    gone_G: Tensor
    m_ND: Tensor
    patterns: OfKeys
    aliases: OfKeys
    numerals: Numerals = NO_NUMERALS

    @classmethod
    def of(
        cls,
        u_ND: Tensor,
        said_NC: Tensor,
        m_ND: Tensor,
        prompts_N: Tensor,
        was_N: Tensor,
        kept: KeptPlaces,
        patterns: OfKeys,
        aliases: OfKeys,
        numerals: Numerals = NO_NUMERALS,
    ) -> Places:
        """Keys, and the kept text that is near any of them.

        Args:
            u_ND, said_NC, m_ND: of the keys, the encodings of length 1.
            prompts_N: contexts that are told; kept text of them is left out.
            was_N: the token that the memory was sure of there before, -1: it was not, or it is told
                that token. Where kept text that shares the tokens of a key says it, it says what is
                no longer so.
            kept: all of it.
            patterns, aliases: of the keys, as `measuring.subjects` makes them.
            numerals: where a key has a number.
        """
        kept = kept.joined(numerals)
        bags_NW = kept.bags(numerals.joined(said_NC))
        gone_O = torch.isin(kept.contexts_O, prompts_N)
        changed_N = was_N >= 0
        size = max(1, SIMILARITIES // max(1, len(gone_O)))
        for bags_PW, was_P in zip(
            bags_NW[changed_N].split(size), was_N[changed_N].split(size), strict=True
        ):
            same_PO = bags_PW @ kept.bags_OW.T > SAME
            gone_O |= (same_PO & (was_P[:, None] == kept.targets_O)).any(0)
        old = kept.at(~gone_O)
        if len(u_ND) * NEIGHBOURS < len(old):
            old_OE, all_OE = beside(old.u_OD, old.bags_OW), beside(u_ND, bags_NW)
            if len(aliases):
                others_AE = beside(u_ND[aliases.of_M], kept.bags(aliases.said_MC))
                all_OE = torch.cat([all_OE, others_AE])
            near = [(k @ old_OE.T).topk(NEIGHBOURS, dim=1).indices for k in all_OE.split(size)]
            old = old.at(torch.cat(near).unique())
        gone_G = kept.contexts_O[gone_O]
        places = u_ND, said_NC, old.u_OD, old.said_OC, old.contexts_O, gone_G, m_ND
        return cls(*places, patterns, aliases, numerals)

    def to_tensors(self) -> dict[str, Tensor]:
        """Its tensors by name; what belongs to keys is left out where there is nothing: writes from
        before it have a checksum without it.
        """
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                found[one.name] = value
            elif isinstance(value, OfKeys) and len(value):
                found |= {f"{one.name}.said": value.said_MC, f"{one.name}.of": value.of_M}
        if len(self.numerals):
            found["numerals"] = self.numerals.table_M3
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Places:
        """What `to_tensors` gave; of an earlier version without tokens.

        Raises:
            KeyError: a tensor is missing.
        """
        u_ND, old_OD = tensors["u_ND"], tensors["old_OD"]
        said, old_said = (
            tensors.get(name, torch.zeros(len(like), 0, dtype=torch.int32))
            for name, like in (("said_NC", u_ND), ("old_said_OC", old_OD))
        )
        gone_G = tensors.get("gone_G", torch.zeros(0, dtype=torch.int64))
        m_ND = tensors.get("m_ND", torch.zeros(len(u_ND), 0))
        patterns, aliases = (
            OfKeys(tensors[f"{name}.said"], tensors[f"{name}.of"])
            if f"{name}.of" in tensors
            else OfKeys.none(said.shape[1])
            for name in ("patterns", "aliases")
        )
        numerals = Numerals(tensors["numerals"]) if "numerals" in tensors else NO_NUMERALS
        near = u_ND, said, old_OD, old_said, tensors["contexts_O"], gone_G, m_ND
        return cls(*near, patterns, aliases, numerals)


def numerals_of(some: Iterable[Places]) -> Numerals:
    """Those by which the contexts of several writes are compared."""
    return next((places.numerals for places in some if len(places.numerals)), NO_NUMERALS)


def first_of(numbers_N: Tensor) -> Tensor:
    """Which are the first of a run of the same number, (N,) bool: by the numbers of their prompts,
    the keys of answers' first tokens.
    """
    first_N = torch.ones(len(numbers_N), dtype=torch.bool)
    first_N[1:] = numbers_N[1:] != numbers_N[:-1]
    return first_N


def beside(u_PD: Tensor, bags_PW: Tensor) -> Tensor:
    """Both in one vector, (P, E), whose product is the mean of both cosines."""
    return torch.cat([u_PD, bags_PW], dim=1).mul_(math.sqrt(0.5))
