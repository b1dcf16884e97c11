"""Questions to a pair of layers: whole answers by greedy decoding, by each voice; which are right,
and which changed since the pair before.

Logits are made only where they are needed, and keys, values and the encoder's state stay in a
cache.

Shapes: B prompts, T tokens, P tokens with those before, V token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.corpus.windows import PADDING
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.measuring.answers import is_answered
from actors.measuring.heldout import MARGIN, Reflection
from actors.measuring.voices import (
    BATCH_TOKENS,
    VOICES,
    Voice,
    batches,
    predict_voice_at,
    predict_voice_next,
)
from actors.sources.facts import Probe, baseline_accuracy
from actors.tokenizers.tokenizer import Tokenizer

MAX_ANSWER_TOKENS = 16
TOKENS_AFTER = 2  # of an answer: whether it ends there may take a space and what follows it


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
    """An answer as facts are trained on: a space before, one full stop after."""
    return tokenizer.encode(f" {answer.rstrip(' .')}.")


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A prompt as the start of a document; at least one token."""
    return [*tokenizer.opening, *tokenizer.encode(prompt)] or [tokenizer.end_of_text]


def _device(pair: Pair) -> torch.device:
    return pair.memory.values.device


@torch.no_grad()
def _likeliest(pair: Pair, voice: Voice, rows: list[list[int]], wanted: list[range]) -> list[int]:
    """Likeliest next tokens of `voice` at the wanted positions of each row, in one list."""
    tokens_BT, segments_BT = pad_right(rows, 0, _device(pair))
    where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for row, positions in enumerate(wanted):
        where_BT[row, positions.start : positions.stop] = True
    pieces = predict_voice_at(pair, voice, tokens_BT, segments_BT, where_BT)
    return [token for piece in pieces for token in piece.logp.argmax(-1).tolist()]


def decodes_to(
    pair: Pair,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> list[bool]:
    """Whether greedy decoding by `voice` gives each answer to each prompt (both as token ids); one
    pass over prompt and answer tells.
    """
    rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    right = [True] * len(rows)
    for indices in batches([len(row) for row in rows], batch_tokens, len(rows)):
        wanted = [range(len(prompts[i]) - 1, len(rows[i]) - 1) for i in indices]
        best = iter(_likeliest(pair, voice, [rows[i] for i in indices], wanted))
        for i in indices:
            right[i] = [next(best) for _ in answers[i]] == list(answers[i])
    return right


def answers_right(
    pair: Pair,
    voice: Voice,
    tokenizer: Tokenizer,
    probes: Sequence[Probe],
    batch_tokens: int = BATCH_TOKENS,
    answered: Callable[[int], None] | None = None,
) -> list[bool]:
    """Whether `voice` gives one of each probe's answers, by `is_answered`: in whatever tokens, with
    or without a closing mark. `answered`: is told after each batch how many are done.
    """
    prompts = [prompt_tokens(tokenizer, probe.prompt) for probe in probes]
    longest = [
        max(len(tokenizer.encode(f" {answer}")) for answer in probe.answers) for probe in probes
    ]
    limits = [length + TOKENS_AFTER for length in longest]
    decoded = decode_greedily(pair, voice, prompts, tokenizer.end, limits, batch_tokens, answered)
    return [
        any(is_answered(continuation(tokenizer, p, t.tokens), a, probe.prompt)
            for a in probe.answers)
        for probe, p, t in zip(probes, prompts, decoded, strict=True)
    ]  # fmt: skip


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text of `new` as it follows the prompt; alone some tokenizers drop its first space."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)


def accuracy_of(
    pair: Pair,
    tokenizer: Tokenizer,
    probes: Sequence[Probe],
    majority: dict[str, str],
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = unseen,
    what: str = "whole answers",
) -> dict[str, float]:
    """Share of the probes that each voice answers, and that each relation's `majority` object does
    (`baseline`); empty without probes. `progress` sees how many, as the stage `what`.
    """
    if not probes:
        return {}
    total, right = len(VOICES) * len(probes), {}
    for number, voice in enumerate(VOICES):

        def answered(num: int, before: int = number * len(probes)) -> None:
            progress(what, before + num, total)

        right[voice] = answers_right(pair, voice, tokenizer, probes, batch_tokens, answered)
    accuracy: dict[str, float] = {voice: sum(oks) / len(oks) for voice, oks in right.items()}
    return {**accuracy, "baseline": baseline_accuracy(probes, majority)}


@dataclass(frozen=True)
class Decoded:
    """A greedy continuation, token by token."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    mixing: tuple[float, ...]  # lambda; empty where the voice does not mix
    freshness: tuple[float, ...] = ()  # of each token; empty where nothing was told


def decode_greedily(
    pair: Pair,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    stop: int | Collection[int] | None,
    max_tokens: int | Sequence[int] = MAX_ANSWER_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    decoded_so_far: Callable[[int], None] | None = None,
) -> list[Decoded]:
    """Greedy continuations of the prompts, up to and without `stop`; None: nothing stops them.

    Args:
        pair, voice: whose continuations.
        prompts: token ids, at least one each.
        stop: the id that ends a continuation, or several of which any one does.
        max_tokens: of each continuation, or of all.
        batch_tokens: of a forward pass, the tokens to come included.
        decoded_so_far: is told after each batch how many are done.
    """
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
    lengths = [len(p) + limit for p, limit in zip(prompts, limits, strict=True)]
    decoded: list[Decoded] = [Decoded((), (), ())] * len(prompts)
    stops = () if stop is None else (stop,) if isinstance(stop, int) else stop
    num_done = 0
    for indices in batches(lengths, batch_tokens, pair.data.positions_at_once):
        some = [prompts[i] for i in indices]
        for i, one in zip(
            indices, _decode(pair, voice, some, stops, [limits[i] for i in indices]), strict=True
        ):
            decoded[i] = one
        num_done += len(indices)
        if decoded_so_far is not None:
            decoded_so_far(num_done)
    return decoded


@torch.no_grad()
def _decode(
    pair: Pair,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    stops: Collection[int],
    limits: Sequence[int],
) -> list[Decoded]:
    """Continuations of one batch; a row that has ended leaves the cache."""
    decoded: list[list[tuple[int, float, float, float]]] = [[] for _ in prompts]
    told = False
    tokens_BT, mask_BP = pad_left(prompts, _device(pair))
    cache, live = pair.data.new_cache(), list(range(len(prompts)))
    while True:
        last, _ = predict_voice_next(pair, voice, tokens_BT, mask_BP, cache, keep=1)
        p_B, token_B = last.logp[:, -1].max(-1)
        tokens, ps = token_B.tolist(), p_B.exp().tolist()
        none = [0.0] * len(live)
        lambdas = none if last.mixing is None else last.mixing[:, -1].tolist()
        told = last.freshness is not None
        fresh = none if last.freshness is None else last.freshness[:, -1].tolist()
        still = []
        for at, row in enumerate(live):
            if tokens[at] in stops:
                continue
            decoded[row].append((tokens[at], ps[at], lambdas[at], fresh[at]))
            if len(decoded[row]) < limits[row]:
                still.append(at)
        if not still:
            break
        if len(still) < len(live):
            kept = torch.tensor(still, device=tokens_BT.device)
            cache.batch_select_indices(kept)
            token_B, mask_BP = token_B[kept], mask_BP[kept]
            live = [live[at] for at in still]
        tokens_BT = token_B[:, None]
        mask_BP = torch.cat([mask_BP, torch.ones_like(tokens_BT)], dim=1)
    return [
        Decoded(
            tuple(one[0] for one in row),
            tuple(one[1] for one in row),
            tuple(one[2] for one in row) if voice == "help" else (),
            tuple(one[3] for one in row) if told else (),
        )
        for row in decoded
    ]


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows as one tensor that ends in the last token of each, and 1 where a token is."""
    longest = max(len(row) for row in rows)
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(tokens_BT)
    for index, row in enumerate(rows):
        tokens_BT[index, longest - len(row) :] = torch.tensor(row)
        mask_BT[index, longest - len(row) :] = 1
    return tokens_BT.to(device), mask_BT.to(device)


def answer_reflection(
    pair: Pair,
    old_answers: Sequence[tuple[int, ...]],
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[Reflection, list[tuple[int, ...]]]:
    """Reflection over whole greedy answers, and the data layer's answers now.

    A probe changed where the data layer's answer differs from `old_answers` and its first new token
    leads the old one by the margin; it is followed where the memory, greedily, gives the whole new
    answer.
    """
    mark = tokenizer.end
    decoded = decode_greedily(pair, "own", prompts, mark, batch_tokens=batch_tokens)
    answers = [t.tokens for t in decoded]
    moved = [
        i
        for i, (new, old) in enumerate(zip(answers, old_answers, strict=False))
        if new != old and new and old
    ]
    lead = leads(pair, prompts, answers, old_answers, moved, mark, batch_tokens)
    clear = [i for i, by in zip(moved, lead, strict=True) if by > MARGIN]
    new = [answers[i] for i in clear]
    followed = decodes_to(pair, "memory", [prompts[i] for i in clear], new, batch_tokens)
    return Reflection(len(clear), sum(followed)), answers


def same_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))  # fmt: skip


@torch.no_grad()
def leads(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    old: Sequence[Sequence[int]],
    moved: Sequence[int],
    mark: int | None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """By how much the data layer finds each new answer likelier than the old one: probability of
    the first token that differs minus that of the old one in its place.

    An answer that ended there has the mark in it; without one, probability 0.

    Args:
        pair: its data layer is asked.
        prompts, new, old: token ids, of all questions.
        moved: the questions whose answers are compared.
        mark: what ends an answer.
        batch_tokens: of a forward pass.
    """
    rows, firsts = [], []
    for i in moved:
        same = same_start(new[i], old[i])
        rows.append([*prompts[i], *new[i][:same]])
        firsts.append([answer[same] if same < len(answer) else mark for answer in (new[i], old[i])])
    found = [0.0] * len(rows)
    most = pair.data.positions_at_once
    for indices in batches([len(row) for row in rows], batch_tokens, most):
        some = [rows[at] for at in indices]
        tokens_BT, segments_BT = pad_right(some, 0, _device(pair))
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for row, tokens in enumerate(some):
            where_BT[row, len(tokens) - 1] = True
        (prediction,) = predict_voice_at(pair, "own", tokens_BT, segments_BT, where_BT)
        for p_V, at in zip(prediction.logp.exp(), indices, strict=True):
            ps = [0.0 if token is None else float(p_V[token]) for token in firsts[at]]
            found[at] = ps[0] - ps[1]
    return found
