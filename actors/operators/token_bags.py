"""Which tokens were last in a document, as a vector: wordings of one fact share them (the subject's
above all), also where an encoder puts them far apart.

    bag of a position     Σ weight(t) sign(t) over the different tokens t among the last 24
    weight(t)             log(1 + texts / texts with t), of the text that the memory keeps; of a
                          number (`numerals`) twice what a token has that is in no text
    sign(t)               128 signs, hashed from t: bags have about the cosines of their tokens

Beside encodings where what was told is looked for (`layers.nearest`). Nothing is learned.

Shapes: B sequences, T tokens, P positions, C tokens of a context, S positions with those before, U
different tokens, W width of a bag, V token ids.
Source: inverse document frequencies (Spärck Jones 1972), random projections (Achlioptas 2003).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.operators.numerals import NUMBERS

TOKENS = 24  # of a context
WIDTH = 128  # with 64 more other facts are lost, 256 are no better: docs/decisions/0048
WORD = 64  # signs of one hash
NUMBER = 2.0  # times as much as a rare token, for which several stand: docs/decisions/0054


class TokenBags:
    """Bags of contexts.

    Args:
        weight_V: of each token.
        rare: weight of a token that no text has.
    """

    def __init__(self, weight_V: Tensor, rare: float = 1.0) -> None:
        self._weight_V, self._of_number = weight_V, NUMBER * rare

    @classmethod
    def of(cls, ids: npt.NDArray[np.integer[Any]] | None, num_tokens: int) -> TokenBags:
        """Weighted by how rare each token is in the text that a memory keeps, `ids` in any order;
        none: all the same.
        """
        if ids is None or not len(ids):
            return cls(torch.ones(num_tokens))
        counts_V, texts = np.bincount(ids, minlength=num_tokens), len(ids) / TOKENS
        with_V = torch.from_numpy(np.minimum(counts_V, texts)).float()
        return cls(torch.log1p(texts / (with_V + 1)), math.log1p(texts))

    def __call__(self, said_PC: Tensor) -> Tensor:
        """(P, W), of length 1, float32.

        Args:
            said_PC: the last tokens of each document up to a position, in any order: id + 1, or 0
                where there is none; or an id of `numerals.Numerals.joined`.
        """
        device, num_tokens = said_PC.device, len(self._weight_V)
        if not said_PC.numel():
            return torch.zeros(len(said_PC), WIDTH, device=device)
        number_PC = said_PC >= NUMBERS
        if bool(number_PC.any()):  # ids after those of tokens
            said_PC = torch.where(number_PC, said_PC - NUMBERS + num_tokens + 1, said_PC)
        sorted_PC, new_PC = _different(said_PC)
        seen_V = torch.zeros(int(sorted_PC.max()) + 1, dtype=torch.bool, device=device)
        seen_V[sorted_PC.flatten()] = True
        ids_U, at_PC = seen_V.nonzero()[:, 0], (seen_V.long().cumsum(0) - 1)[sorted_PC]
        if self._weight_V.device != device:
            self._weight_V = self._weight_V.to(device)
        weight_U = self._weight_V[(ids_U - 1).clamp(0, num_tokens - 1)]
        weight_U = weight_U.masked_fill(ids_U > num_tokens, self._of_number)
        bags_PW = F.embedding_bag(
            at_PC, signs(ids_U), per_sample_weights=weight_U[at_PC] * new_PC, mode="sum"
        )
        return F.normalize(bags_PW, dim=1)


def last_tokens(tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
    """The last tokens of its document up to each position, (B, T, C) int32, newest first: id + 1,
    or 0 where there is none.
    """
    reach = TOKENS - 1
    tokens_BS = F.pad(tokens_BT + 1, (reach, 0))
    segments_BS = F.pad(segments_BT, (reach, 0), value=torch.iinfo(segments_BT.dtype).min)
    same_BTC = segments_BS.unfold(1, TOKENS, 1) == segments_BT.unsqueeze(-1)
    return (tokens_BS.unfold(1, TOKENS, 1) * same_BTC).flip(2).int()


def set_numbers(said_PC: Tensor) -> Tensor:
    """A number for the different tokens of each context, (P,) int64: bags of contexts with other
    numbers differ by far more than float32 rounds.
    """
    sorted_PC, new_PC = _different(said_PC)
    return (_hashed(sorted_PC) * new_PC).sum(1)


def _different(said_PC: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each context in ascending order, and which of them are its first of a kind."""
    sorted_PC = said_PC.long().sort(dim=1).values
    new_PC = sorted_PC > 0
    new_PC[:, 1:] &= sorted_PC[:, 1:] != sorted_PC[:, :-1]
    return sorted_PC, new_PC


def signs(ids_U: Tensor) -> Tensor:
    """128 signs of each token, (U, W) float32, the same everywhere."""
    bits_W = torch.arange(WORD, device=ids_U.device)
    words = [_hashed(ids_U * (WIDTH // WORD) + part) for part in range(WIDTH // WORD)]
    bits_UW = torch.cat([(word_U[:, None] >> bits_W) & 1 for word_U in words], dim=1)
    return (2 * bits_UW - 1).float() / math.sqrt(WIDTH)


def _hashed(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014) of each number; int64 overflows as it has to."""
    z = x * -7046029254386353131 + -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ _shifted(z, shift)) * factor
    return z ^ _shifted(z, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Bits moved to the right, zeros after them."""
    return (x >> by) & ((1 << (64 - by)) - 1)
