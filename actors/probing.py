"""Asks a pair of layers questions: whole answers, greedily, by the data layer alone, with memory,
by the memory alone.

An answer is right when every one of its tokens and the full stop after it is the likeliest next
one. Called by the evaluator and `tandem ask`.

Shapes: B prompts, T tokens, V token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from actors.corpus import PADDING
from actors.data_layer import mix_distributions
from actors.evaluation import MARGIN, Pair, Reflection
from actors.facts import Probe, baseline_accuracy
from actors.tokenizer import Tokenizer

Voice = Literal["own", "help", "memory"]
VOICES: tuple[Voice, ...] = ("own", "help", "memory")
BATCH = 64
MAX_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Spoken:
    """Log probabilities of one voice and lambda where there is a mixture."""

    logp_BTV: Tensor
    mixing_BT: Tensor | None = None


@torch.no_grad()
def speak(pair: Pair, voice: Voice, tokens_BT: Tensor, segments_BT: Tensor) -> Spoken:
    """Next-token log probabilities of `voice` at every position."""
    if voice == "own":
        return Spoken(pair.data(tokens_BT, segments_BT).logits_BTV.log_softmax(-1))
    y = pair.memory.read(tokens_BT, segments_BT).y
    logq = pair.memory.predict(y).log_softmax(-1)
    if voice == "memory":
        return Spoken(logq)
    out = pair.data(tokens_BT, segments_BT, y)
    logp = out.logits_BTV.log_softmax(-1)
    logit = pair.data.port.mixing_logit(out.hidden_BTD, y, logp, logq)
    return Spoken(mix_distributions(logp, logq, logit), torch.sigmoid(logit))


def pad_right(
    rows: Sequence[Sequence[int]], fill: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token rows as one tensor, and their segments: 0, then -1 for padding."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), fill)
    segments = torch.full((len(rows), longest), PADDING)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        segments[index, : len(row)] = 0
    return tokens.to(device), segments.to(device)


def answer_tokens(tokenizer: Tokenizer, answer: str) -> list[int]:
    """An answer as it stands after a prompt: a space before, one full stop after."""
    return tokenizer.encode(f" {answer.rstrip(' .')}.")


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A prompt as the start of a document."""
    return [tokenizer.begin, *tokenizer.encode(prompt)]


def _device(pair: Pair) -> torch.device:
    return pair.memory.values.device


def _by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices in batches of similar length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def says(
    pair: Pair,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    fill: int,
) -> list[bool]:
    """Whether `voice`, decoding greedily, gives each answer to each prompt (both as token ids)."""
    rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    right = [False] * len(rows)
    for indices in _by_length(rows):
        tokens, segments = pad_right([rows[i] for i in indices], fill, _device(pair))
        best = speak(pair, voice, tokens, segments).logp_BTV.argmax(-1)
        for at, i in enumerate(indices):
            start, stop = len(prompts[i]), len(rows[i])
            right[i] = bool((best[at, start - 1 : stop - 1] == tokens[at, start:stop]).all())
    return right


def answers_right(
    pair: Pair, voice: Voice, tokenizer: Tokenizer, probes: Sequence[Probe]
) -> list[bool]:
    """Whether `voice` gives one of each probe's answers."""
    asked = [(index, answer) for index, probe in enumerate(probes) for answer in probe.answers]
    prompts = [prompt_tokens(tokenizer, probes[index].prompt) for index, _ in asked]
    answers = [answer_tokens(tokenizer, answer) for _, answer in asked]
    right = [False] * len(probes)
    for (index, _), ok in zip(
        asked, says(pair, voice, prompts, answers, tokenizer.end_of_text), strict=True
    ):
        right[index] = right[index] or ok
    return right


def accuracy_of(
    pair: Pair, tokenizer: Tokenizer, probes: Sequence[Probe], majority: dict[str, str]
) -> dict[str, float]:
    """Share of the probes that each voice answers, and that each relation's `majority` object does
    (`baseline`); empty without probes.
    """
    if not probes:
        return {}
    right = {v: answers_right(pair, v, tokenizer, probes) for v in VOICES}
    accuracy: dict[str, float] = {voice: sum(oks) / len(oks) for voice, oks in right.items()}
    return {**accuracy, "baseline": baseline_accuracy(probes, majority)}


@dataclass(frozen=True)
class Told:
    """A greedy continuation, token by token."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    mixing: tuple[float, ...]  # lambda; empty where the voice does not mix


def tell(
    pair: Pair,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    stop: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Told]:
    """Greedy continuations of the prompts, up to and without `stop`."""
    told: list[Told] = [Told((), (), ())] * len(prompts)
    for indices in _by_length(prompts):
        rows = [list(prompts[i]) for i in indices]
        said: list[list[tuple[int, float, float]]] = [[] for _ in rows]
        live = list(range(len(rows)))
        for _ in range(max_tokens):
            tokens, segments = pad_right([rows[r] for r in live], stop, _device(pair))
            spoken = speak(pair, voice, tokens, segments)
            still = []
            for at, r in enumerate(live):
                logp_V = spoken.logp_BTV[at, len(rows[r]) - 1]
                token = int(logp_V.argmax())
                if token == stop:
                    continue
                lam = (
                    float(spoken.mixing_BT[at, len(rows[r]) - 1])
                    if spoken.mixing_BT is not None
                    else 0.0
                )
                said[r].append((token, float(logp_V[token].exp()), lam))
                rows[r].append(token)
                still.append(r)
            live = still
            if not live:
                break
        for r, i in enumerate(indices):
            tokens_, ps, lams = zip(*said[r], strict=True) if said[r] else ((), (), ())
            told[i] = Told(tokens_, ps, lams if voice == "help" else ())
    return told


def answer_reflection(
    pair: Pair,
    old_answers: Sequence[tuple[int, ...]],
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
) -> tuple[Reflection, list[tuple[int, ...]]]:
    """Reflection over whole greedy answers, and the data layer's answers now.

    A probe changed where the data layer's answer differs from `old_answers` and its first new token
    leads the old one by the margin; it is followed where the memory, greedily, gives the whole new
    answer.
    """
    mark = tokenizer.end_of_text
    answers = [t.tokens for t in tell(pair, "own", prompts, mark)]
    moved = [
        i
        for i, (new, old) in enumerate(zip(answers, old_answers, strict=False))
        if new != old and new and old
    ]
    clear = [i for i in moved if _lead(pair, prompts[i], answers[i], old_answers[i], mark) > MARGIN]
    followed = (
        says(pair, "memory", [prompts[i] for i in clear], [answers[i] for i in clear], mark)
        if clear
        else []
    )
    return Reflection(len(clear), sum(followed)), answers


def _lead(
    pair: Pair, prompt: Sequence[int], new: Sequence[int], old: Sequence[int], mark: int
) -> float:
    """Probability of the first new token minus that of the old one in its place."""
    same = next(
        (i for i, (a, b) in enumerate(zip(new, old, strict=False)) if a != b),
        min(len(new), len(old)),
    )
    tokens, segments = pad_right([[*prompt, *new[:same]]], mark, _device(pair))
    p_V = speak(pair, "own", tokens, segments).logp_BTV[0, -1].exp()
    new_token = new[same] if same < len(new) else mark
    old_token = old[same] if same < len(old) else mark
    return float(p_V[new_token] - p_V[old_token])
