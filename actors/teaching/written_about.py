"""What the memory writes about subjects: documents that begin with their names.

Two wordings of one relation are found where one subject is written in both (`pair.wordings`), and
of what a memory writes from nothing few documents share a subject. So it is given the subjects.
Trains nothing. Called by `lesson_preparation`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest

from actors.layers.memory_layer import MemoryLayer
from actors.machine.seeds import seed_of
from actors.measuring.probing import prompt_tokens
from actors.pair.wordings import WrittenText
from actors.pair.writing import write_documents
from actors.sources.facts import SUBJECT
from actors.teaching.texts import text_of
from actors.tokenizers.tokenizer import Tokenizer

SUBJECTS, EACH = 24, 12  # of a pattern, and documents about each
TEMPERATURE = 0.7  # at 1 many objects are made up, at .5 a relation names few (decision 0039)


def written_about(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    subjects: Mapping[str, Sequence[str]],
    written: WrittenText,
    window: int,
    seed: int,
) -> list[str]:
    """Documents about some of the subjects of each pattern.

    Args:
        memory: that writes.
        tokenizer: the run's.
        subjects: those of the lessons, by pattern.
        written: what it wrote from nothing.
        window: tokens of a window.
        seed: of the draws.
    """
    openings: dict[str, None] = {}
    for pattern, names in sorted(subjects.items()):
        before = pattern.partition(SUBJECT)[0]
        for name in chosen_subjects(pattern, names, written):
            openings |= {name: None} | ({f"{before}{name}": None} if before else {})
    rows = [prompt_tokens(tokenizer, opening) for opening in openings]
    rows = [row for row in rows if len(row) < window // 2]  # the rest has to fit too
    if not rows:
        return []
    documents = write_documents(
        memory,
        tokenizer,
        EACH * len(rows),
        seed_of(seed, "about", 0),
        window,
        openings=rows,
        temperature=TEMPERATURE,
        windows=1,
    )
    return [text_of(tokenizer, piece) for piece in documents]


def chosen_subjects(pattern: str, names: Sequence[str], written: WrittenText) -> list[str]:
    """Subjects that the memory may know something of: those that it wrote in this pattern and in
    another sentence, at most half of all; those of the lessons; then the rest that it wrote, which
    may be made up. What it wrote is taken by turns of the objects: two wordings have to meet on
    several.
    """
    objects: defaultdict[str, list[str]] = defaultdict(list)
    for subject, obj in sorted(written.said(pattern)):
        objects[obj].append(subject)
    turns = zip_longest(*(subjects for _, subjects in sorted(objects.items())))
    by_turns = [subject for turn in turns for subject in turn if subject is not None]
    often = [name for name in by_turns if _is_in_two(written.sentences, name)]
    return list(dict.fromkeys([*often[: SUBJECTS // 2], *names, *by_turns]))[:SUBJECTS]


def _is_in_two(sentences: Sequence[str], name: str) -> bool:
    return len(list(islice((1 for sentence in sentences if name in sentence), 2))) == 2
