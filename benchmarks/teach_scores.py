"""What a pair knows of lessons and of what is beside them: the figures of `teach`.

Whole answers, decoded greedily to a natural stop; teacher-forced ones beside them; and those of
CounterFact, which compare the probabilities of two answers. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.layers.batch import to_batch
from actors.layers.pair import Pair
from actors.measuring.answers import is_answered
from actors.measuring.heldout import heldout_figures
from actors.measuring.lesson_exam import said
from actors.measuring.probing import answer_tokens, decodes_to, pad_right, prompt_tokens
from actors.measuring.voices import BATCH_TOKENS, Voice, batches, predict_voice_at
from actors.tokenizers.tokenizer import Tokenizer
from benchmarks.learning_exam import LOSS, share, text_windows
from benchmarks.teach_data import Question, TeachData

Json = dict[str, Any]
TokensOf = Callable[[Tokenizer, str], list[int]]
KINDS = ("taught", "others", "unseen")
TEXT_WINDOWS = 96


class Scores:
    """Asks pairs about one draw of lessons.

    Args:
        data: what is taught and what is not.
        tokenizer: the pairs'.
        heldout: a text that nothing trains on.
        window: tokens of a window.
    """

    def __init__(self, data: TeachData, tokenizer: Tokenizer, heldout: Path, window: int) -> None:
        self._tokenizer = tokenizer
        self._lessons = {
            f"{name}_{kind}": data.asked(some, kind)
            for name, some in (("changed", data.changed), ("new", data.new))
            for kind in KINDS
        }
        self._kept = {name: data.kept_questions(name == "seen") for name in ("seen", "unseen")}
        self._neighbours = data.neighbours()
        text = text_windows(heldout, tokenizer, window, TEXT_WINDOWS)
        self._text = to_batch(text, torch.device("cpu"))

    def take(self, pair: Pair, voice: Voice = "own", likelihoods: bool = True) -> Json:
        """Every figure of one voice."""
        found: Json = {}
        kept = {f"kept_{name}": questions for name, questions in self._kept.items()}
        for name, questions in {**self._lessons, **kept}.items():
            if questions:
                found[name] = share(self._right(pair, voice, questions))
                found[f"{name}_forced"] = share(self._forced(pair, voice, questions))
        if likelihoods:
            success = {
                "es": self._lessons["changed_taught"],
                "ps": self._lessons["changed_unseen"],
                "ns": self._neighbours,
            }
            for name, questions in success.items():
                found[name] = share(likelier(pair, voice, self._tokenizer, questions))
            found["score"] = score_of([found[name] for name in success])
        found["text_loss"] = heldout_figures(pair, self._text)[LOSS[voice]]
        return found

    def answers(self, pair: Pair, voice: Voice) -> list[str]:
        """What a voice says to the lessons, in the wordings taught and the others."""
        questions = [q for name, qs in self._lessons.items() if "unseen" not in name for q in qs]
        return said(pair, voice, self._tokenizer, [q.prompt for q in questions])

    def _right(self, pair: Pair, voice: Voice, questions: Sequence[Question]) -> list[bool]:
        texts = said(pair, voice, self._tokenizer, [q.prompt for q in questions])
        return [is_answered(f" {t}", q.answer, q.prompt) for t, q in zip(texts, questions,
                                                                         strict=True)]  # fmt: skip

    def _forced(self, pair: Pair, voice: Voice, questions: Sequence[Question]) -> list[bool]:
        """Whether every token of an answer is the likeliest after the tokens before it."""
        prompts = [prompt_tokens(self._tokenizer, q.prompt) for q in questions]
        answers = [answer_tokens(self._tokenizer, q.answer) for q in questions]
        return decodes_to(pair, voice, prompts, answers)


def likelier(
    pair: Pair,
    voice: Voice,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    tokens_of: TokensOf = answer_tokens,
) -> list[bool]:
    """Whether an answer is likelier than the other one; of questions that have another one.

    Args:
        tokens_of: of the answers; with a full stop, as facts are trained on, or without.
    """
    both = [q for q in questions if q.other is not None]
    prompts = [prompt_tokens(tokenizer, q.prompt) for q in both]
    right, wrong = (
        mean_logp(pair, voice, prompts, [tokens_of(tokenizer, answer) for answer in answers])
        for answers in ([q.answer for q in both], [str(q.other) for q in both])
    )
    return [a > b for a, b in zip(right, wrong, strict=True)]


@torch.no_grad()
def mean_logp(
    pair: Pair, voice: Voice, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[float]:
    """Mean log probability of a token of each answer, as CounterFact's code has it."""
    starts = [len(prompt) for prompt in prompts]
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    found = [0.0] * len(rows)
    most = pair.data.positions_at_once
    for indices in batches([len(row) for row in rows], BATCH_TOKENS, most):
        tokens_BT, segments_BT = pad_right([rows[i] for i in indices], 0, torch.device("cpu"))
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for row, i in enumerate(indices):
            where_BT[row, starts[i] - 1 : len(rows[i]) - 1] = True
        places = [(i, t) for i in indices for t in rows[i][starts[i] :]]
        at = 0
        for piece in predict_voice_at(pair, voice, tokens_BT, segments_BT, where_BT):
            for logp_V in piece.logp:
                i, token = places[at]
                found[i] += float(logp_V[token]) / (len(rows[i]) - starts[i])
                at += 1
    return found


def score_of(shares: Sequence[float]) -> float:
    """The harmonic mean of CounterFact's three shares."""
    return len(shares) / sum(1 / max(1e-6, share) for share in shares)


def pooled(found: Json, kind: str, sizes: Json) -> float:
    """Share of all lessons, changed and new, that are answered in one kind of wordings."""
    parts = [(found[f"{name}_{kind}"], sizes[name]) for name in ("changed", "new")
             if f"{name}_{kind}" in found]  # fmt: skip
    return sum(share * num for share, num in parts) / max(1, sum(num for _, num in parts))
