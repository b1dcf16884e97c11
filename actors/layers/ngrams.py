"""Addresses without a search: the last tokens of a document, hashed to rows of the value table.

    tokens -> contexts (the last n tokens) -> of each order 1 to n, a row per head -> slots, weights

Addresses follow from contexts (`memory_layer.Contexts`): no keys, no top-k, no attention, and no
gradient but that of how much each order counts. Every head hashes every order into rows of its own,
with multipliers and a prime number of rows of its own, so that two n-grams that share a row in one
head rarely share it in another. Knows no table.

Sources: Engram (arXiv 2601.07372) for the hashes; hash embeddings (arXiv 1709.03933) for several of
them beside each other.

Shapes: B sequences, T tokens, R tokens before them, C tokens of a context, newest first, H heads, O
orders (as many as C), M contexts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from actors.settings.layers import MemoryLayerSpec

NOTHING = 0  # in a context, before a document's first token; token ids are one larger
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64
MASK = (1 << 64) - 1


class NgramAddresses(nn.Module):
    """Slots and weights of contexts.

    Args:
        spec: heads, the longest n-gram, and the rows that all share.
    """

    multipliers_HOC: Tensor
    rows_HO: Tensor
    offsets_HO: Tensor

    def __init__(self, spec: MemoryLayerSpec) -> None:
        super().__init__()
        self.heads, self.orders = spec.heads, spec.ngram_tokens
        share = spec.num_slots // (self.heads * self.orders)
        sizes = _primes_below(share + 1)
        rows = [[next(sizes) for _ in range(self.orders)] for _ in range(self.heads)]
        offsets = [
            [share * (head * self.orders + order) for order in range(self.orders)]
            for head in range(self.heads)
        ]
        multipliers = [
            [
                [_odd(head, order, at) if at <= order else 0 for at in range(self.orders)]
                for order in range(self.orders)
            ]
            for head in range(self.heads)
        ]
        for name, values in (
            ("multipliers_HOC", multipliers),
            ("rows_HO", rows),
            ("offsets_HO", offsets),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.shares = nn.Parameter(torch.zeros(self.heads * self.orders))

    def slots(self, contexts: Tensor) -> Tensor:
        """Rows of the value table (..., H, O), from contexts (..., C)."""
        products = contexts[..., None, None, :] * self.multipliers_HOC  # wraps around
        hashed = products[..., 0]
        for at in range(1, self.orders):
            hashed = hashed ^ products[..., at]
        hashed = hashed ^ (hashed >> 32)  # the low bits of a product know the low bits alone
        return hashed.remainder(self.rows_HO) + self.offsets_HO

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and weights, (..., H, O) each; the weights of a head sum to 1."""
        weights_HO = self.shares.view(self.heads, self.orders).softmax(-1)
        slots = self.slots(contexts)
        return slots, weights_HO.expand(slots.shape)

    @torch.no_grad()
    def collisions(self, contexts_MC: Tensor) -> float:
        """Of the n-grams in these contexts, the share that shares a row with another one of them,
        over all heads and orders.
        """
        shared = total = 0
        for order in range(self.orders):
            grams_MC = contexts_MC.clone()
            grams_MC[:, order + 1 :] = NOTHING
            distinct_MC = grams_MC.unique(dim=0)
            for slots_M in self.slots(distinct_MC)[:, :, order].unbind(1):
                _, place_M, counts_U = slots_M.unique(return_inverse=True, return_counts=True)
                shared += int((counts_U[place_M] > 1).sum())
                total += len(slots_M)
        return shared / max(1, total)


def _odd(*of: int) -> int:
    """An odd number of 64 bits, as int64 holds it, by SplitMix64: the same everywhere."""
    number = 0
    for part in of:
        number = (number + part + 1) * GOLDEN & MASK
        number = (number ^ number >> 30) * MIX_1 & MASK
        number = (number ^ number >> 27) * MIX_2 & MASK
        number ^= number >> 31
    number |= 1
    return number - (1 << 64) if number >> 63 else number


def _primes_below(limit: int) -> Iterator[int]:
    """Primes less than `limit`, descending; numbers of any kind where these run out."""
    for number in range(limit - 1, 1, -1):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            yield number
    while True:
        yield max(1, limit - 1)
