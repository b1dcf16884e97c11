"""What the memory knows and the data layer does not, as lessons that nobody has to give.

In a document that the memory wrote, the last word that the memory is sure of and the data layer
finds unlikely: what precedes it is the prompt, the rest of the sentence the answer. Only answers
that the memory, asked, gives whole count, about subjects that it wrote of more than once. Called by
`jobs.teach` for `--from-memory`.

Shapes: B documents, T tokens, N positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch

from actors.corpus.block_reader import encode
from actors.layers.pair import Pair
from actors.lessons.contradictions import names
from actors.lessons.lesson import Lesson
from actors.machine.progress import Progress, unseen
from actors.measuring.lesson_exam import first_sentence, said, same_answer
from actors.measuring.probing import pad_right
from actors.measuring.voices import BATCH_TOKENS, Voice, batches, predict_voice_at
from actors.pair.wordings import WrittenText
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError

SHARP = 0.8  # temperature of the documents: at 1 three in four are made up (decision 0055)
SAID_OFTEN = 2  # documents that name a subject
SURE, UNLIKELY = 0.5, 0.1  # probability of a token, by the memory and by the data layer
PROMPT_WORDS, ANSWER_WORDS = 2, 6  # at least; at most
LEAST_AGREEMENT = 0.5  # of the likeliest tokens, where the memory is sure; decision 0025


def unknown_lessons(
    pair: Pair, tokenizer: Tokenizer, texts: Sequence[str], progress: Progress = unseen
) -> list[Lesson]:
    """All that these documents show, each prompt once.

    Args:
        pair: both layers.
        tokenizer: the run's.
        texts: that the memory wrote.
        progress: sees what is being done, and how far it is.

    Raises:
        ConfigError: the memory is too far from the data layer to teach it; there is nothing.
    """
    rows = [
        [int(token) for token in piece.tokens]
        for piece in encode(tokenizer, [Document(text) for text in dict.fromkeys(texts)])
    ]
    own, same = _probabilities(pair, "own", rows, progress, "how likely the data layer finds it")
    memory, theirs = _probabilities(pair, "memory", rows, progress, "how sure the memory is of it")
    agreed = [
        a == b
        for of_row in zip(same, theirs, memory, strict=True)
        for a, b, q in zip(*of_row, strict=True)
        if q >= SURE
    ]
    agreement = sum(agreed) / max(1, len(agreed))
    if agreement < LEAST_AGREEMENT:
        raise ConfigError(
            "where it is sure of what it wrote, the memory finds the same token likeliest as the "
            f"data layer for {agreement:.0%}, expected {LEAST_AGREEMENT:.0%} at least: taught by "
            "it, the data layer would lose more than it learns. Train the run longer, or give "
            "lessons: --lessons"
        )
    found: dict[str, Lesson] = {}
    for row, p_own, p_memory in zip(rows, own, memory, strict=True):
        lesson = _lesson(tokenizer, row, p_own, p_memory)
        if lesson is not None:
            found.setdefault(lesson.prompt, lesson)
    lessons = written_often(list(found.values()), texts)
    prompts, what = [lesson.prompt for lesson in lessons], "asking the memory"
    answers = said(pair, "memory", tokenizer, prompts, progress=progress, what=what)
    sure = [one for one, text in zip(lessons, answers, strict=True)
            if same_answer(one.answer, text)]  # fmt: skip
    if not sure:
        raise ConfigError(
            f"{len(texts):,} documents that the memory wrote show nothing that it is sure of and "
            "the data layer does not say; raise --written, or give lessons: --lessons"
        )
    return sure


def written_often(lessons: Sequence[Lesson], texts: Sequence[str]) -> list[Lesson]:
    """The lessons, with their subjects, whose subjects several documents name; or that were written
    several times, where no subject is found. What is written once may be made up, and most of what
    a memory is sure of and a data layer is not, is.
    """
    written, times = WrittenText(texts), Counter(text.strip() for text in texts)
    different, found = sorted(times), []
    for lesson in lessons:
        template = written.template_of(lesson.prompt)
        if template is None:
            if times[f"{lesson.prompt}{lesson.completion}"] >= SAID_OFTEN:
                found.append(lesson)
            continue
        named = (1 for text in different if template[1] in text and names(text, template[1]))
        if sum(islice(named, SAID_OFTEN)) == SAID_OFTEN:
            found.append(replace(lesson, subject=template[1]))
    return found


def _lesson(
    tokenizer: Tokenizer, row: Sequence[int], own: Sequence[float], memory: Sequence[float]
) -> Lesson | None:
    """The last thing that a document says and the data layer does not know, since names of what it
    says it of are unknown too; None: nothing.
    """
    found = None
    for at, (p, q) in enumerate(zip(own, memory, strict=True), start=1):
        if q < SURE or p > UNLIKELY or row[at] in tokenizer.marks:
            continue
        whole = tokenizer.decode([t for t in row if t not in tokenizer.marks])
        before = tokenizer.decode([t for t in row[:at] if t not in tokenizer.marks])
        if not whole.startswith(before):
            break
        # back to the beginning of the word, where the first token is inside one
        cut = len(before) if whole[len(before) : len(before) + 1] == " " else before.rfind(" ")
        prompt, answer = whole[: max(cut, 0)], first_sentence(whole[max(cut, 0) :])
        if prompt.count(" ") + 1 < PROMPT_WORDS or not 1 <= len(answer.split()) <= ANSWER_WORDS:
            continue
        if not answer.endswith(".") or not answer.strip(" ."):
            continue
        found = Lesson(prompt.strip(), answer.rstrip(" ."), form="memory", bits=0.0,
                      source="the memory")  # fmt: skip
    return found


@torch.no_grad()
def _probabilities(
    pair: Pair,
    voice: Voice,
    rows: Sequence[Sequence[int]],
    progress: Progress = unseen,
    what: str = "",
) -> tuple[list[list[float]], list[list[int]]]:
    """Of each token after the first: its probability by a voice, and the likeliest token there."""
    found: list[list[float]] = [[] for _ in rows]
    best: list[list[int]] = [[] for _ in rows]
    device, most = pair.memory.values.device, pair.data.positions_at_once
    num_done = 0
    for indices in batches([len(row) for row in rows], BATCH_TOKENS, most):
        tokens_BT, segments_BT = pad_right([rows[i] for i in indices], 0, device)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        where_BT[:, :-1] = segments_BT[:, 1:] == 0
        targets_N = tokens_BT.roll(-1, 1)[where_BT]
        at, p, likeliest = 0, [], []
        for piece in predict_voice_at(pair, voice, tokens_BT, segments_BT, where_BT):
            targets = targets_N[at : at + len(piece.logp)]
            at += len(targets)
            p += piece.logp.gather(1, targets[:, None])[:, 0].exp().tolist()
            likeliest += piece.logp.argmax(-1).tolist()
        start = 0
        for i in indices:
            stop = start + len(rows[i]) - 1
            found[i], best[i] = p[start:stop], likeliest[start:stop]
            start = stop
        num_done += len(indices)
        progress(what, num_done, len(rows))
    return found, best
