"""Predictions of each voice, which is `own` (the data layer alone), `help` (the mixture of both
layers) or `memory` (the memory alone); at some positions, or token by token with a cache.

Nothing of the size of all positions times all token ids is made at a time.

Shapes: B sequences, T tokens of this call, P tokens so far with them, L positions wanted of each
sequence, N of all, D memory width, H hidden size, V token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from actors.corpus.windows import PADDING
from actors.layers.memory_cache import MemoryCache
from actors.layers.mixture import Predictions
from actors.layers.pair import Pair
from actors.layers.predicted import log_probabilities
from actors.operators.parts import parts_of

Voice = Literal["own", "help", "memory"]
VOICES: tuple[Voice, ...] = ("own", "help", "memory")
BATCH_TOKENS = 4096  # of a forward pass where no setting is given


def batches(lengths: Sequence[int], batch_tokens: int, most: int) -> Iterator[list[int]]:
    """Indices of sequences, similar lengths together, for forward passes.

    Args:
        lengths: tokens of each sequence.
        batch_tokens: of a pass, padding included; a longer sequence has a pass of its own.
        most: sequences of a pass.
    """
    some: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if some and (len(some) == most or (len(some) + 1) * lengths[index] > batch_tokens):
            yield some
            some = []
        some.append(index)
    if some:
        yield some


@dataclass(frozen=True)
class VoicePrediction:
    """Log probabilities (..., V) of one voice, and lambda (...) where there is a mixture.

    Attributes:
        freshness: how much of what was read comes from named writes, (...), in [0, 1]; None:
            nothing was told, or there is no mixture.
    """

    logp: Tensor
    mixing: Tensor | None = None
    freshness: Tensor | None = None


def predict_voice(
    pair: Pair,
    voice: Voice,
    logits: Tensor | None,
    hidden: Tensor | None,
    y: Tensor | None,
    freshness: Tensor | None = None,
) -> VoicePrediction:
    """What `voice` predicts from the data layer's logits (..., V), its hidden states (..., H), the
    read y (..., D) and its freshness (...); each may be None where the voice doesn't need it.
    """
    if voice == "own":
        assert logits is not None
        return VoicePrediction(log_probabilities(logits))
    assert y is not None
    memory_logits = pair.memory.predict(y)
    if voice == "memory":
        return VoicePrediction(log_probabilities(memory_logits))
    assert logits is not None
    assert hidden is not None
    both = Predictions(logits, memory_logits, hidden, y, pair.data.port)
    if freshness is not None:
        both = replace(both, freshness=freshness, unsure_at=pair.memory.writes.unsure_at)
    mixture = both.mixed()
    return VoicePrediction(mixture.logp, mixture.mixing, mixture.freshness)


@torch.no_grad()
def predict_everywhere(
    pair: Pair, voice: Voice, tokens_BT: Tensor, segments_BT: Tensor
) -> VoicePrediction:
    """What `voice` predicts at every position, all at once: log probabilities (B, T, V).

    For short texts, and the plain way that tests compare the others with.
    """
    y, freshness = _read(pair, voice, tokens_BT, segments_BT)
    if voice == "memory":
        return predict_voice(pair, voice, None, None, y)
    out = pair.data(tokens_BT, segments_BT, y)
    return predict_voice(pair, voice, out.logits_BTV, out.hidden_BTD, y, freshness)


def _read(
    pair: Pair, voice: Voice, tokens_BT: Tensor, segments_BT: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """What is read, and its freshness, where the voice needs them."""
    if voice == "own":
        return None, None
    read = pair.memory.read(tokens_BT, segments_BT)
    return read.y, read.freshness


@torch.no_grad()
def predict_voice_at(
    pair: Pair, voice: Voice, tokens_BT: Tensor, segments_BT: Tensor, where_BT: Tensor
) -> Iterator[VoicePrediction]:
    """What `voice` predicts where `where_BT` is true, in order, so many positions at a time as the
    data layer's `positions_at_once`.
    """
    y_BTD, freshness_BT = _read(pair, voice, tokens_BT, segments_BT)
    hidden_NH = y_ND = fresh_N = None
    if voice != "memory":
        hidden_NH = pair.data.hidden(tokens_BT, segments_BT, y_BTD)[where_BT]
    if y_BTD is not None:
        y_ND = y_BTD[where_BT]
    if freshness_BT is not None:
        fresh_N = freshness_BT[where_BT]
    for some in parts_of(int(where_BT.sum()), pair.data.positions_at_once):
        logits_NV = None if hidden_NH is None else pair.data.logits_at(hidden_NH[some])
        yield predict_voice(
            pair,
            voice,
            logits_NV,
            None if hidden_NH is None else hidden_NH[some],
            None if y_ND is None else y_ND[some],
            None if fresh_N is None else fresh_N[some],
        )


def predict_voice_next(
    pair: Pair,
    voice: Voice,
    tokens_BT: Tensor,
    mask_BP: Tensor | None,
    cache: Any,
    keep: int | Tensor,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> tuple[VoicePrediction, Any]:
    """What `voice` predicts after the tokens of this call, and the data layer's own output, None
    for the voice `memory`.

    Args:
        pair, voice: who.
        tokens_BT: what `cache` has not seen.
        mask_BP: 0 for padding, which may be anywhere; None: there is none.
        cache: a cache of transformers, in which the tokens are kept, or None.
        keep: only the last so many positions, or these; 0: all.
        position_ids: (B, T); default: counted over the mask's ones.
        kwargs: passed on to the data layer's model.

    Raises:
        ValueError: a cache of another voice or of a kind that the memory can't follow.
    """
    if mask_BP is not None and position_ids is None:
        new = slice(mask_BP.shape[1] - tokens_BT.shape[1], None)
        position_ids = (mask_BP.long().cumsum(-1) - 1).clamp_min(0)[:, new]
    kept: Any = slice(-keep if keep else None, None) if isinstance(keep, int) else keep
    past, y_BTD, freshness_BT = None, None, None
    if voice != "own":
        past = MemoryCache.of(cache, voice)
        segments_BT = torch.zeros_like(tokens_BT)
        if mask_BP is not None:
            new = slice(mask_BP.shape[1] - tokens_BT.shape[1], None)
            segments_BT.masked_fill_(mask_BP[:, new] == 0, PADDING)
        read = past.read(pair.memory, tokens_BT, segments_BT)
        y_BTD, freshness_BT = read.y, read.freshness
    plain = logits = hidden = None
    if voice != "memory":
        narrow = pair.data.keeps_logits
        plain, hidden = pair.data.run_model(
            y_BTD,
            input_ids=tokens_BT,
            attention_mask=mask_BP,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            **({**kwargs, "logits_to_keep": keep} if narrow else kwargs),
        )
        logits, hidden = (t if narrow else t[:, kept] for t in (plain.logits, hidden))
        logits = logits[..., : pair.data.num_tokens]
    prediction = predict_voice(
        pair,
        voice,
        logits,
        hidden,
        None if y_BTD is None else y_BTD[:, kept],
        None if freshness_BT is None else freshness_BT[:, kept],
    )
    if cache is not None and past is not None:
        past.attach(cache)
    return prediction, plain
