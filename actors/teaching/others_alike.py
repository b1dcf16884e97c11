"""Openings about others of the lessons' kind: what a large data layer would say there has to stay.

A memory of few facts writes about few subjects. A model that has read much knows names: after a
list of the lessons' subjects it goes on with others like them. In the wordings that are taught
these are the places where a lesson reaches too far; rehearsed are the openings alone, up to where
an answer would begin. Trains nothing. Called by `lesson_preparation`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch

from actors.corpus.windows import Piece
from actors.layers.data_layer import DataLayer
from actors.lessons.lesson import Lesson
from actors.machine.progress import Progress, unseen
from actors.machine.seeds import seed_of
from actors.measuring.probing import prompt_tokens
from actors.measuring.sampling import continued, pieces_of
from actors.pair.wordings import SUBJECT_WORDS, template_with
from actors.sources.facts import SUBJECT
from actors.tokenizers.tokenizer import Tokenizer

LISTED = 5  # subjects of the lessons with which a list begins
LISTS, LIST_TOKENS = 24, 32  # for each pattern; tokens that each goes on for
MOST = 1500  # openings


def openings_alike(
    layer: DataLayer,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    seed: int,
    progress: Progress = unseen,
) -> list[str]:
    """Prompts in all wordings of the lessons, about names that the data layer lists beside theirs.

    Args:
        layer: the data layer before teaching.
        tokenizer: the run's.
        lessons: with their subjects and wordings; those without a subject say nothing here.
        seed: of the draws.
        progress: sees how many wordings have their names.
    """
    names: dict[str, list[str]] = {}
    others: dict[str, set[str]] = {}
    for lesson in lessons:
        pattern = template_with(lesson.prompt, lesson.subject) if lesson.subject else None
        if pattern is not None:
            names.setdefault(pattern, []).append(str(lesson.subject))
            found = (template_with(prompt, str(lesson.subject)) for prompt in lesson.prompts)
            others.setdefault(pattern, set()).update(one for one in found if one is not None)
    prompts: set[str] = set()
    for number, (pattern, subjects) in enumerate(sorted(names.items())):
        progress("naming others like the subjects", number, len(names))
        listed = names_alike(layer, tokenizer, subjects, seed_of(seed, "alike", pattern))
        prompts |= {one.replace(SUBJECT, name) for one in others[pattern] for name in listed}
    taught = [str(lesson.subject) for lesson in lessons if lesson.subject]
    kept = sorted(prompt for prompt in prompts if not any(name in prompt for name in taught))
    random.Random(f"alike:{seed}").shuffle(kept)
    return kept[:MOST]


def names_alike(
    layer: DataLayer, tokenizer: Tokenizer, subjects: Sequence[str], seed: int
) -> list[str]:
    """Names with which the data layer goes on after lists of the subjects, sorted."""
    rng, pieces = random.Random(seed), []
    for _ in range(LISTS):
        some = rng.sample(subjects, min(LISTED, len(subjects)))
        row = prompt_tokens(tokenizer, "".join(f"{name}\n" for name in some))
        pieces.append(Piece([*row, *row[:1] * LIST_TOKENS], len(row)))  # as long as it may become
    longest = max(piece.num_given for piece in pieces)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows_NT = continued(
            layer, pieces, longest + LIST_TOKENS, tokenizer.end, next(layer.parameters()).device
        )
    added = (piece.tokens[piece.num_given :] for piece in pieces_of(rows_NT, tokenizer.end))
    texts = (tokenizer.decode([t for t in row if t not in tokenizer.marks]) for row in added)
    return sorted(set(_listed(texts)) - {*subjects})


def _listed(texts: Iterable[str]) -> Iterable[str]:
    """The lines of the lists that were ended, where they may be names."""
    for text in texts:
        for line in text.split("\n")[:-1]:
            if (name := line.strip()) and name.count(" ") < SUBJECT_WORDS:
                yield name
