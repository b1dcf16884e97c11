"""Numbers of a text as one thing each. Tokenizers write them as digits, or some digits at a time,
and a bag of tokens knows no order: order 1041 would be order 1014 too.

    tokens of a number, one after the other  ->  one id, hashed from its digits
    a token with a space before its digits   ->  begins another number

The same number is the same id however it is split into tokens. Nothing is learned.

Shapes: M tokens that are digits, P positions, C tokens of a context, V token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

NUMBERS = 1 << 24  # from here on ids are of numbers; no vocabulary is as large
KINDS = 1 << 20  # of numbers that are told apart
PRIME = (1 << 31) - 1
DIGITS = 11  # ten digits, so that leading zeros count


def _nothing() -> Tensor:
    return torch.zeros(0, 3, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Numerals:
    """Which tokens of a tokenizer are digits; none by default: every token stands for itself.

    Attributes:
        table_M3: of each its id, what its digits are worth, and by what those before them are
            multiplied; 0 where it begins a number.
    """

    table_M3: Tensor = field(default_factory=_nothing)

    @classmethod
    def of(cls, digits: Mapping[int, str]) -> Numerals:
        """Of tokens and their digits, those that begin a number with a space before them."""
        rows = []
        for token, text in sorted(digits.items()):
            code, factor = 0, 1
            for digit in text.lstrip(" "):
                code = (code * DIGITS + int(digit) + 1) % PRIME
                factor = factor * DIGITS % PRIME
            rows.append((token, code, 0 if text.startswith(" ") else factor))
        return cls(torch.tensor(rows, dtype=torch.int64)) if rows else cls()

    def __len__(self) -> int:
        return len(self.table_M3)

    @cached_property
    def _tokens(self) -> frozenset[int]:
        return frozenset(self.table_M3[:, 0].tolist())

    @cached_property
    def _by_token(self) -> tuple[Tensor, Tensor]:
        """Codes and factors by id + 1, 0 where a token is none; the last ones are of all more."""
        token_M, code_M, factor_M = self.table_M3.unbind(1)
        code_V, factor_V = self.table_M3.new_zeros(2, int(token_M.max()) + 3)
        code_V[token_M + 1], factor_V[token_M + 1] = code_M, factor_M
        return code_V, factor_V

    def are_in(self, said_PC: Tensor) -> bool:
        """Whether any of these contexts has a number."""
        return bool(len(self)) and bool(self._looked_up(said_PC)[0].any())

    def _looked_up(self, said_PC: Tensor) -> tuple[Tensor, Tensor]:
        code_V, factor_V = self._by_token
        at_PC = said_PC.long().clamp_max(len(code_V) - 1)
        return code_V[at_PC], factor_V[at_PC]

    def joined(self, said_PC: Tensor) -> Tensor:
        """The contexts with an id of each number in the place of every one of its tokens; a context
        in which that was done stays as it is.

        Args:
            said_PC: last tokens, as `token_bags.last_tokens` gives them: newest first.
        """
        if not len(self):
            return said_PC
        code_PC, factor_PC = self._looked_up(said_PC)
        at_P = code_PC.any(1).nonzero()[:, 0]
        if not len(at_P):
            return said_PC
        code_PC, factor_PC, some_PC = code_PC[at_P], factor_PC[at_P], said_PC[at_P]
        is_PC, number_PC = code_PC > 0, torch.zeros_like(code_PC)
        before_P = code_PC.new_zeros(len(at_P))
        for at in reversed(range(code_PC.shape[1])):  # up to here, from the oldest on
            before_P = (before_P * factor_PC[:, at] + code_PC[:, at]) % PRIME * is_PC[:, at]
            number_PC[:, at] = before_P
        for at in range(1, code_PC.shape[1]):  # and to its end, which is newer
            goes_on_P = is_PC[:, at] & (factor_PC[:, at - 1] > 0)
            number_PC[:, at] = torch.where(goes_on_P, number_PC[:, at - 1], number_PC[:, at])
        out_PC = said_PC.clone()
        out_PC[at_P] = torch.where(is_PC, NUMBERS + number_PC % KINDS, some_PC).to(out_PC.dtype)
        return out_PC

    def joined_ids(self, ids: Sequence[int]) -> frozenset[int]:
        """The different tokens and numbers of tokens that are in order."""
        if self._tokens.isdisjoint(ids):  # of nearly every word of what is told
            return frozenset(ids)
        newest_first_1C = torch.tensor([ids], dtype=torch.int64).flip(1) + 1
        return frozenset((self.joined(newest_first_1C) - 1)[0].tolist())

    def to(self, device: torch.device) -> Numerals:
        """The same on that device."""
        return self if self.table_M3.device == device else Numerals(self.table_M3.to(device))


NO_NUMERALS = Numerals()
