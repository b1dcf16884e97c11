"""Asks a pair the lessons that it was taught, and what it was not to lose by them.

Whole answers by greedy decoding, compared with those before teaching. Trains nothing. Called by the
evaluator of a run that teaches, and by `jobs.teach` before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.lessons.lesson_files import Exam, Question
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.probing import continuation, decode_greedily, prompt_tokens
from actors.measuring.voices import BATCH_TOKENS, VOICES, Voice
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import LessonAnswer, LostAnswer, Taught

ANSWER_TOKENS = 16  # of an answer to a question that is no lesson
TOKENS_AFTER = 2  # of a lesson's answer: whether it ends there may take what follows it


def said(
    pair: Pair,
    voice: Voice,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_tokens: int | Sequence[int] = ANSWER_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = unseen,
    what: str = "asking questions",
) -> list[str]:
    """What a voice says after each prompt, up to the end of its first sentence; `progress` sees
    how many are answered, as the stage `what`.
    """
    rows = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    progress(what, 0, len(rows))
    decoded = decode_greedily(
        pair, voice, rows, tokenizer.end, max_tokens, batch_tokens,
        lambda num: progress(what, num, len(rows)),
    )  # fmt: skip
    texts = (continuation(tokenizer, row, one.tokens) for row, one in zip(rows, decoded,
                                                                          strict=True))  # fmt: skip
    return [first_sentence(text) for text in texts]


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, or the first line."""
    line = text.strip().partition("\n")[0]
    for at, char in enumerate(line):
        if char == "." and (at + 1 == len(line) or line[at + 1] == " "):
            return line[: at + 1]
    return line


class LessonExam:
    """The questions of a run that teaches.

    Args:
        tokenizer: the run's.
        lessons: what it teaches; those that were known before are not asked.
        exam: answers before teaching; `Exam()` where none are known yet.
        batch_tokens: of a forward pass.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        lessons: Sequence[Lesson],
        exam: Exam,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._tokenizer, self._exam = tokenizer, exam
        self._lessons = [lesson for lesson in lessons if not lesson.known]
        self._batch_tokens = batch_tokens
        self._limits = [
            max(ANSWER_TOKENS, len(tokenizer.encode(lesson.completion)) + TOKENS_AFTER)
            for lesson in self._lessons
        ]

    def answers(
        self, pair: Pair, voice: Voice, progress: Progress = unseen, what: str = "asking lessons"
    ) -> list[str]:
        """What a voice says to each lesson as it was given; `progress` as `said` has it."""
        prompts = [lesson.prompt for lesson in self._lessons]
        limits, size = self._limits, self._batch_tokens
        return said(pair, voice, self._tokenizer, prompts, limits, size, progress, what)

    def right(self, answers: Sequence[str]) -> list[bool]:
        """Which lessons these answers give."""
        return [is_answered(f" {text}", lesson.answer, lesson.prompt)
                for text, lesson in zip(answers, self._lessons, strict=True)]  # fmt: skip

    def _reworded(self, pair: Pair) -> list[list[bool]]:
        """Of each lesson, which of its other prompts the data layer answers."""
        asked = [
            (i, prompt) for i, lesson in enumerate(self._lessons) for prompt in lesson.prompts[1:]
        ]
        limits = [self._limits[i] for i, _ in asked]
        prompts = [prompt for _, prompt in asked]
        answers = said(pair, "own", self._tokenizer, prompts, limits, self._batch_tokens)
        found: list[list[bool]] = [[] for _ in self._lessons]
        for (i, prompt), text in zip(asked, answers, strict=True):
            found[i].append(is_answered(f" {text}", self._lessons[i].answer, prompt))
        return found

    def take(self, pair: Pair) -> Taught:
        """Asks everything."""
        now = {voice: self.answers(pair, voice) for voice in VOICES}
        right = {voice: self.right(now[voice]) for voice in VOICES}
        reworded = self._reworded(pair)
        before = self._exam.own_before or ("",) * len(self._lessons)
        lessons = []
        for i, lesson in enumerate(self._lessons):
            changed = not same_answer(before[i], now["own"][i])
            lessons.append(
                LessonAnswer(
                    prompt=lesson.prompt,
                    answer=lesson.answer,
                    before=before[i],
                    own=now["own"][i],
                    help=now["help"][i],
                    memory=now["memory"][i],
                    right=tuple(voice for voice in VOICES if right[voice][i]),
                    reworded=len(reworded[i]),
                    reworded_right=sum(reworded[i]),
                    changed=changed,
                    followed=changed and same_answer(now["own"][i], now["memory"][i]),
                    bits=lesson.bits or 0.0,
                )
            )
        kept, neighbours = self._exam.kept, self._exam.neighbours
        return Taught(
            lessons=tuple(lessons),
            num_kept=len(kept),
            num_neighbours=len(neighbours),
            lost=self._lost(pair, "own", kept),
            lost_neighbours=self._lost(pair, "own", neighbours),
            memory_lost=self._lost(pair, "memory", kept),
        )

    def _lost(
        self, pair: Pair, voice: Voice, questions: Sequence[Question]
    ) -> tuple[LostAnswer, ...]:
        prompts = [question.prompt for question in questions]
        answers = said(pair, voice, self._tokenizer, prompts, batch_tokens=self._batch_tokens)
        found = []
        for question, text in zip(questions, answers, strict=True):
            before = question.own if voice == "own" else question.memory
            if not same_answer(before, text):
                found.append(LostAnswer(question.prompt, before, text))
        return tuple(found)


def same_answer(before: str, now: str) -> bool:
    """Whether two answers say the same, but for a closing mark."""
    return before.rstrip(" .") == now.rstrip(" .")
