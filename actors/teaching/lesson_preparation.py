"""Before teaching: the memory writes, its text gives wordings and questions, and the pair is asked
what it says now.

    lessons -> what the data layer says already is left out
    the memory -> documents; those that name a taught subject are left out
    the memory, given their subjects -> documents; with the others they give other wordings
    documents -> questions about what is not taught

Reads the exported pair and the lessons, nothing of the corpus. Trains nothing. Called by
`jobs.teach`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch

from actors.layers.pair import Pair
from actors.lessons.contradictions import as_written, is_contradicting, opening_of
from actors.lessons.given_lessons import refuse_silent
from actors.lessons.lesson import Lesson
from actors.lessons.lesson_files import Exam, Question
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.lesson_exam import LessonExam, said
from actors.measuring.probing import pad_right, prompt_tokens
from actors.measuring.voices import BATCH_TOKENS, batches, predict_voice_at
from actors.pair.wordings import WrittenText, template_with
from actors.pair.writing import write_documents
from actors.sources.facts import SUBJECT
from actors.teaching.telling_lessons import ToldFirst, tell_first
from actors.teaching.texts import texts_of
from actors.teaching.written_about import written_about
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError

KEPT_QUESTIONS = 400
SAID_OFTEN = 2  # a subject that was written once may be made up
KEPT_PROMPT_WORDS = 3  # of a question at least
MOST_WORDINGS = 8  # mined for one pattern
LEAST_TOKENS = 6  # of the documents that a memory writes, on average, marks included
LEAST_KEPT_FRAC = 0.1  # of the documents that do not name a taught subject


@dataclass(frozen=True)
class Prepared:
    """What a run that teaches begins with.

    Attributes:
        lessons: those that are taught, with the memory's wordings, then those that are known.
        texts: documents that the memory wrote and that name no taught subject.
        exam: answers before teaching.
        told: how the memory is told the lessons; None: it is not.
        num_known: lessons that the data layer says already.
        figures: of the preparation, for the report.
    """

    lessons: tuple[Lesson, ...]
    texts: tuple[str, ...]
    exam: Exam
    told: ToldFirst | None
    num_known: int
    figures: dict[str, Any]


def written_texts(
    pair: Pair,
    tokenizer: Tokenizer,
    num: int,
    seed: int,
    window: int,
    progress: Progress = unseen,
    temperature: float = 1.0,
) -> list[str]:
    """Documents that the memory writes from nothing, as text; as `write_documents` has it.

    Raises:
        ConfigError: it writes scraps.
    """
    documents = write_documents(
        pair.memory, tokenizer, num, seed, window, temperature=temperature, progress=progress
    )
    mean = sum(len(piece.tokens) for piece in documents) / max(1, num)
    if mean < LEAST_TOKENS:
        raise ConfigError(
            f"the run's memory can't write: its documents have {mean:.1f} tokens on average, marks "
            f"included, expected {LEAST_TOKENS} at least; it has learned answers without what they "
            "follow. Train the run with losses.given above 0 (or corpus.loss_on: all), and teach "
            "that"
        )
    return texts_of(tokenizer, documents)


def prepare_lessons(
    pair: Pair,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    window: int,
    seed: int,
    reword: bool = True,
    tell: bool = True,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = unseen,
) -> Prepared:
    """Everything that a run which teaches begins with.

    Args:
        pair: both layers of the run.
        tokenizer: the run's.
        lessons: as they were given.
        texts: that the memory wrote.
        window: tokens of a window of the run.
        seed: of the choice of questions.
        reword: whether other wordings are mined.
        tell: whether the memory is told the lessons.
        say: receives what was found.
        progress: sees what is being done, and how far it is.

    Raises:
        ConfigError: a lesson without a token, or longer than a window; the data layer says all of
            it already; hardly any text is left.
    """
    refuse_silent(lessons, lambda text: len(tokenizer.encode(text)))
    refuse_longer(lessons, tokenizer, window)
    before = LessonExam(tokenizer, lessons, Exam())
    asking = "asking the data layer what it says already"
    knows = before.right(before.answers(pair, "own", progress, asking))
    new = [lesson for lesson, known in zip(lessons, knows, strict=True) if not known]
    if not new:
        raise ConfigError(
            f"the data layer gives all {len(lessons)} wanted answers already; there is nothing to "
            "teach"
        )
    written = WrittenText(texts)
    for at, lesson in enumerate(new):
        progress("looking for subjects", at, len(new))
        new[at] = _with_subject(lesson, written)
    kept = uncontradicting(texts, new, tokenizer)
    if len(kept) < max(1, LEAST_KEPT_FRAC * len(texts)):
        raise ConfigError(
            f"of {len(texts):,} documents that the memory wrote only {len(kept):,} name no taught "
            "subject: nothing would keep what the data layer knows; teach fewer lessons at once, "
            "or raise --written"
        )
    patterns: dict[str, list[str]] = {}
    if reword:
        subjects = _subjects(new)
        progress("writing about the subjects")
        about = written_about(pair.memory, tokenizer, subjects, written, window, seed)
        patterns = _patterns(subjects, WrittenText([*texts, *about]), progress)
    new = [_reworded(lesson, patterns) for lesson in new]
    rehearsed = WrittenText(kept)
    otherwise = said_otherwise(pair, tokenizer, rehearsed, patterns, progress)
    asked = uncontradicting(otherwise, new, tokenizer)
    num_patterns = sum(map(len, patterns.values()))
    say(f"{len(kept):,} documents name no taught subject; {num_patterns} other wordings found")
    progress("counting the bits that the lessons give")
    bits = label_bits(pair, tokenizer, new)
    new = [replace(one, bits=num) for one, num in zip(new, bits, strict=True)]
    figures: dict[str, Any] = {
        "written": len(texts),
        "naming": len(texts) - len(kept),
        "patterns": len(patterns),
        "wordings": num_patterns,
        "reworded": sum(bool(lesson.reworded) for lesson in new),
        "said_otherwise": len(asked),
    }
    known = [
        replace(lesson, known=True, bits=0.0)
        for lesson, is_known in zip(lessons, knows, strict=True)
        if is_known
    ]
    told = None
    if tell:
        say("telling the memory first")
        told = tell_first(pair, tokenizer, [*new, *known], [*kept, *asked], window, progress)
        figures["told"] = told.figures
    return Prepared(
        (*new, *known),
        (*kept, *asked),
        _exam(pair, tokenizer, [*new, *known], rehearsed, patterns, seed, progress),
        told,
        sum(knows),
        figures,
    )


def uncontradicting(
    texts: Sequence[str], lessons: Sequence[Lesson], tokenizer: Tokenizer
) -> list[str]:
    """The documents that do not say otherwise than the lessons."""
    subjects = as_written(tokenizer, (lesson.subject for lesson in lessons))
    openings = {opening_of(tokenizer, lesson.prompt) for lesson in lessons if not lesson.subject}
    return [text for text in texts if not is_contradicting(text, subjects, openings)]


def said_otherwise(
    pair: Pair,
    tokenizer: Tokenizer,
    written: WrittenText,
    patterns: Mapping[str, Sequence[str]],
    progress: Progress = unseen,
) -> list[str]:
    """What the memory wrote, in the other wordings in which it might have been said: it ends each
    sentence. Rehearsed too, since a memory keeps next to all that is rehearsed, and much less of
    the rest.

    Args:
        pair: whose memory is asked.
        tokenizer: the run's.
        written: what it wrote, none of it naming a taught subject.
        patterns: other wordings of each wording.
        progress: sees how many sentences have their end.
    """
    known = written.documents
    prompts: dict[str, None] = {}
    for seed, others in sorted(patterns.items()):
        alike = (seed, *others)
        said_of = Counter(subject for pattern in alike for subject, _ in written.said(pattern))
        subjects = sorted(name for name, num in said_of.items() if num >= SAID_OFTEN)
        prompts |= {p.replace(SUBJECT, s): None for p in alike for s in subjects}
    heads = {text[:at] for text in known for at, char in enumerate(text) if char == " "}
    left = [prompt for prompt in prompts if prompt not in heads][: len(known)]
    what = "the memory says the same in other words"
    answers = said(pair, "memory", tokenizer, left, progress=progress, what=what)
    return [f"{p} {a}" for p, a in zip(left, answers, strict=True) if a.endswith(".")]


def _exam(
    pair: Pair,
    tokenizer: Tokenizer,
    lessons: Sequence[Lesson],
    written: WrittenText,
    patterns: dict[str, list[str]],
    seed: int,
    progress: Progress,
) -> Exam:
    exam = LessonExam(tokenizer, lessons, Exam())
    taught = {p for lesson in lessons if not lesson.known for p in lesson.prompts}
    near = dict.fromkeys(
        prompt
        for lesson in lessons
        for prompt in (*lesson.neighbours, *((lesson.prompt,) if lesson.known else ()))
    )
    questions = kept_questions(written, patterns, KEPT_QUESTIONS, seed)
    neighbours = [prompt for prompt in near if prompt not in taught]
    what = "the exam before it: lessons"
    return Exam(
        kept=_answered(pair, tokenizer, questions, progress),
        neighbours=_asked(pair, tokenizer, neighbours, progress, "the exam before it: neighbours"),
        own_before=tuple(exam.answers(pair, "own", progress, what)),
        memory_before=tuple(exam.answers(pair, "memory", progress, what)),
    )


def refuse_longer(lessons: Sequence[Lesson], tokenizer: Tokenizer, window: int) -> None:
    """Raises: ConfigError on a lesson that does not fit into a window."""
    for lesson in lessons:
        for prompt in (lesson.prompt, *lesson.wordings):
            num = len(prompt_tokens(tokenizer, prompt)) + len(tokenizer.encode(lesson.completion))
            if num + 1 > window:
                raise ConfigError(
                    f"{lesson.source}: prompt and answer have {num} tokens, a window of the run "
                    f"{window} (corpus.window); shorten them"
                )


def _with_subject(lesson: Lesson, written: WrittenText) -> Lesson:
    """The lesson with its subject, where that was not given and the written text shows it."""
    if lesson.subject is not None:
        return lesson
    found = written.template_of(lesson.prompt)
    return lesson if found is None else replace(lesson, subject=found[1])


def _subjects(lessons: Sequence[Lesson]) -> dict[str, list[str]]:
    """By the pattern in which they are given, the subjects of the lessons."""
    found: dict[str, list[str]] = {}
    for one in lessons:
        pattern = template_with(one.prompt, one.subject) if one.subject else None
        if pattern is not None:
            found.setdefault(pattern, []).append(str(one.subject))
    return found


def _patterns(
    seeds: Collection[str], written: WrittenText, progress: Progress
) -> dict[str, list[str]]:
    """Other patterns of each pattern in which lessons are given."""
    patterns = {}
    for number, seed in enumerate(sorted(seeds)):
        progress("looking for other wordings", number, len(seeds))
        patterns[seed] = [mined.template for mined in written.mine(seed, MOST_WORDINGS)]
    return patterns


def _reworded(lesson: Lesson, patterns: dict[str, list[str]]) -> Lesson:
    if lesson.subject is None:
        return lesson
    seed = template_with(lesson.prompt, lesson.subject)
    return lesson.in_words_of(patterns.get(seed or "", ()))


@torch.no_grad()
def label_bits(pair: Pair, tokenizer: Tokenizer, lessons: Sequence[Lesson]) -> list[float]:
    """Bits that each lesson gives: those of its form, and for a label as many as it takes to say
    the answer to somebody who has the memory.
    """
    rows, starts, at = [], [], []
    for i, lesson in enumerate(lessons):
        if lesson.bits is None:
            prompt = prompt_tokens(tokenizer, lesson.prompt)
            rows.append([*prompt, *tokenizer.encode(lesson.completion)])
            starts.append(len(prompt))
            at.append(i)
    bits = [0.0 if lesson.bits is None else lesson.bits for lesson in lessons]
    device = pair.memory.values.device
    most = pair.data.positions_at_once
    for indices in batches([len(row) for row in rows], BATCH_TOKENS, most):
        tokens_BT, segments_BT = pad_right([rows[i] for i in indices], 0, device)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for row, i in enumerate(indices):
            where_BT[row, starts[i] - 1 : len(rows[i]) - 1] = True
        targets = iter([token for i in indices for token in rows[i][starts[i] :]])
        whose = iter([i for i in indices for _ in rows[i][starts[i] :]])
        for piece in predict_voice_at(pair, "memory", tokens_BT, segments_BT, where_BT):
            for logp_V in piece.logp:
                bits[at[next(whose)]] -= float(logp_V[next(targets)]) / math.log(2)
    return bits


def kept_questions(
    written: WrittenText, patterns: dict[str, list[str]], most: int, seed: int
) -> list[tuple[str, str]]:
    """Prompts about what is not taught, with the words that followed in the text.

    By turns those in the wordings that are taught, about other subjects, and any other sentence
    less its last word.
    """
    near = sorted(
        (pattern.replace(SUBJECT, subject), answer)
        for pattern in {p for seed, others in patterns.items() for p in (seed, *others)}
        for subject, answer in written.said(pattern)
    )
    others = sorted(
        (head, last)
        for head, _, last in (sentence.rpartition(" ") for sentence in written.sentences)
        if head.count(" ") + 1 >= KEPT_PROMPT_WORDS
    )
    rng = random.Random(f"kept:{seed}")
    rng.shuffle(near)
    rng.shuffle(others)
    by_turns = [row for both in zip_longest(near, others) for row in both if row is not None]
    return list({prompt: (prompt, answer) for prompt, answer in by_turns}.values())[: 3 * most]


def _answered(
    pair: Pair, tokenizer: Tokenizer, questions: Sequence[tuple[str, str]], progress: Progress
) -> tuple[Question, ...]:
    """Those that the data layer answers as the memory wrote: what both know. No more are asked than
    it takes to have enough.
    """
    what = "the exam before it: what is to stay"
    sure: list[Question] = []
    for start in range(0, len(questions), KEPT_QUESTIONS):
        some = questions[start : start + KEPT_QUESTIONS]
        prompts = [prompt for prompt, _ in some]
        own = said(pair, "own", tokenizer, prompts, progress=progress, what=f"{what}, data layer")
        right = [
            (prompt, text)
            for (prompt, answer), text in zip(some, own, strict=True)
            if is_answered(f" {text}", answer)
        ]
        prompts = [prompt for prompt, _ in right]
        memory = said(pair, "memory", tokenizer, prompts, progress=progress, what=f"{what}, memory")
        sure += [Question(*row, text) for row, text in zip(right, memory, strict=True)]
        if len(sure) >= KEPT_QUESTIONS:
            break
    return tuple(sure[:KEPT_QUESTIONS])


def _asked(
    pair: Pair, tokenizer: Tokenizer, prompts: Sequence[str], progress: Progress, what: str
) -> tuple[Question, ...]:
    own = said(pair, "own", tokenizer, prompts, progress=progress, what=f"{what}, data layer")
    memory = said(pair, "memory", tokenizer, prompts, progress=progress, what=f"{what}, memory")
    return tuple(Question(*row) for row in zip(prompts, own, memory, strict=True))
