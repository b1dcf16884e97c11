"""What layers answer: greedy answers of the data layer, by how much a new one leads, agreement.

Called by `reflect_cells` and `reflect_controls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.layers.pair import Pair
from actors.measuring.heldout import MARGIN
from actors.measuring.probing import (
    answer_tokens,
    decode_greedily,
    decodes_to,
    leads,
    prompt_tokens,
)
from actors.tokenizers.tokenizer import Tokenizer
from benchmarks.reflect_data import Question

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """What one version of the data layer answers to every question.

    Attributes:
        said: greedy answers, as token ids.
        lead: probability of the answer's first token that differs from the answer before teaching,
            minus that of the old one in its place; 0 where both are the same.
    """

    said: list[Tokens]
    lead: list[float]


def prompts_of(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[list[int]]:
    """The questions as token ids."""
    return [prompt_tokens(tokenizer, question.prompt) for question in questions]


def answers_of(
    pair: Pair, prompts: Sequence[Sequence[int]], mark: int, old: Sequence[Tokens] | None
) -> Answers:
    """The data layer's answers, and by how much each leads the one in `old`."""
    said = [told.tokens for told in decode_greedily(pair, "own", prompts, mark)]
    lead = [0.0] * len(said)
    if old is not None:
        moved = [i for i, answer in enumerate(said) if answer != old[i]]
        for i, value in zip(moved, leads(pair, prompts, said, old, moved, mark), strict=True):
            lead[i] = value
    return Answers(said, lead)


def agrees(pair: Pair, prompts: Sequence[Sequence[int]], answers: Sequence[Tokens]) -> list[bool]:
    """Whether the memory, greedily, gives each whole answer; an empty one it can't give."""
    said = decodes_to(pair, "memory", prompts, answers)
    return [ok and len(answer) > 0 for ok, answer in zip(said, answers, strict=True)]


def gives(tokenizer: Tokenizer, said: Sequence[Tokens], objects: Sequence[str]) -> list[bool]:
    """Which answers are these objects, whole."""
    return [
        list(answer) == answer_tokens(tokenizer, object_)
        for answer, object_ in zip(said, objects, strict=True)
    ]


def changed(now: Answers, before: Answers) -> list[bool]:
    """Which answers are other ones than before, by the margin, and not empty."""
    return [
        new != old and lead > MARGIN and len(new) > 0 and len(old) > 0
        for new, old, lead in zip(now.said, before.said, now.lead, strict=True)
    ]


def share(values: Sequence[bool], where: Sequence[bool]) -> float:
    """Share of the chosen ones that hold; 0 where none is chosen."""
    chosen = [value for value, here in zip(values, where, strict=True) if here]
    return sum(chosen) / max(1, len(chosen))
