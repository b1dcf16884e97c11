"""Draws: where in its distribution each token of a document is taken that a layer writes.

Documents whose tokens are drawn independently say likely things many times and miss others. Here a
document is a place in [0, 1), as in arithmetic coding: its first token is the one in whose part of
the interval the place lies, and where in that part it lies, stretched to [0, 1), is the place for
the next token (Vilnis et al. 2023, "Arithmetic sampling"). The places of documents 0, 1, 2, … are
multiples of the golden ratio, which are spread evenly however many there are. So of N documents
every beginning of a probability of more than about 2/N is written, and hardly one more often than
its share. Each document by itself is a fair draw, and depends on the seed and its number alone.

Shapes: B documents, T tokens, V token ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actors.machine.seeds import seed_of

GOLDEN = (5**0.5 - 1) / 2
LEAST_WIDTH = 2.0**-13  # of the interval that a place stands for; below, draws are independent:
# thousands of documents are spread no finer, and what a layer's logits are rounded by is stretched
# with a place, so that another batch size would draw other tokens


class Draws:
    """Of B documents, token by token.

    Args:
        places_B: in [0, 1), float64.
        later_BT: in [0, 1), for the tokens from where places are spread no finer.
        temperature: of the distributions.
    """

    def __init__(self, places_B: Tensor, later_BT: Tensor, temperature: float = 1.0) -> None:
        self._places_B, self._later_BT = places_B, later_BT
        self._widths_B = torch.ones_like(places_B)
        self._temperature = temperature

    @property
    def shape(self) -> torch.Size:
        """(B, T)."""
        return self._later_BT.shape

    @classmethod
    def of(
        cls,
        who: str,
        seed: int,
        documents: Sequence[int],
        num_tokens: int,
        device: torch.device,
        *,
        temperature: float = 1.0,
        at: int = 0,
        num_openings: int = 1,
    ) -> Draws:
        """Those of some documents.

        Args:
            who: writes; two writers of one seed draw different things.
            seed: of all documents.
            documents: their numbers.
            num_tokens: of a window.
            device: of the logits.
            temperature: 1: the layer's own distribution.
            at: window of the document; from the second on, draws are independent.
            num_openings: documents continue so many openings by turns; those of one are spread.
        """
        later, places = [], []
        shifts: dict[int, float] = {}
        for number in documents:
            generator = torch.Generator().manual_seed(seed_of(seed, who, number, str(at)))
            later.append(torch.rand(num_tokens, generator=generator))
            turn, opening = divmod(number, num_openings)
            if opening not in shifts:
                generator.manual_seed(seed_of(seed, who, "opening", opening))
                shifts[opening] = float(torch.rand(1, generator=generator, dtype=torch.float64))
            places.append((shifts[opening] + turn * GOLDEN) % 1.0)
        later_BT, places_B = torch.stack(later), torch.tensor(places, dtype=torch.float64)
        found = cls(places_B.to(device), later_BT.to(device), temperature)
        if at:
            found._widths_B.zero_()
        return found

    def take(self, logits_BV: Tensor, at: int, given_B: Tensor | None = None) -> Tensor:
        """The tokens (B) that stand at `at` of their windows, of these distributions; where a token
        is given, what is drawn does not count.
        """
        sums_BV = (logits_BV / self._temperature).double().softmax(-1).cumsum(-1)
        sums_BV /= sums_BV[:, -1:].clone()
        is_spread_B = self._widths_B >= LEAST_WIDTH
        places_B = torch.where(is_spread_B, self._places_B, self._later_BT[:, at].double())
        tokens_B1 = torch.searchsorted(sums_BV, places_B[:, None], right=True)
        tokens_B1.clamp_max_(logits_BV.shape[-1] - 1)
        ends_B = sums_BV.gather(1, tokens_B1)[:, 0]
        begins_B = sums_BV.gather(1, (tokens_B1 - 1).clamp_min(0))[:, 0]
        begins_B = torch.where(tokens_B1[:, 0] > 0, begins_B, torch.zeros_like(begins_B))
        shares_B = ends_B - begins_B
        places_B = ((places_B - begins_B) / shares_B).clamp(0, 1 - 2**-53)
        widths_B = self._widths_B * shares_B
        if given_B is not None:
            places_B = torch.where(given_B, self._places_B, places_B)
            widths_B = torch.where(given_B, self._widths_B, widths_B)
        self._places_B, self._widths_B = places_B, widths_B
        return tokens_B1[:, 0]

    def select(self, kept: Tensor) -> None:
        """Goes on with these documents alone."""
        self._places_B, self._widths_B = self._places_B[kept], self._widths_B[kept]
        self._later_BT = self._later_BT[kept]
