"""What a pair says to prompts, piece by piece, up to an end or a stop.

    token ids -> generate of transformers -> a listener, each step -> pieces of text
                                          <- which sequences have ended

Pieces add up to the text that is returned at the end. Called by the chat and by the HTTP service.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from actors.measuring.voices import Voice
from actors.pair.tandem_model import GREEDY, TandemModel

HALF = "\N{REPLACEMENT CHARACTER}"  # a character of which bytes are missing
Why = Literal["stop", "length"]


@dataclass(frozen=True)
class SpeechOptions:
    """How something is said.

    Attributes:
        voice: which of the three.
        max_tokens: of each continuation, at most.
        temperature: 0 is greedy.
        top_p: share of probability that is drawn from.
        stops: texts before which a continuation ends.
        seed: of what is drawn; None: any.
        ends: tokens that end it, besides the model's.
    """

    voice: Voice = "help"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stops: Sequence[str] = ()
    seed: int | None = None
    ends: Collection[int] = ()


@dataclass(frozen=True)
class Piece:
    """Text that one continuation goes on with; the last one says why it ended."""

    index: int
    text: str
    why: Why | None = None


@dataclass(frozen=True)
class Spoken:
    """One continuation: its text, its tokens without the one that ended it, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    why: Why


class _Row:
    """One continuation while it grows."""

    def __init__(self, tokenizer: Any, prompt: list[int], stops: Sequence[str]) -> None:
        self._tokenizer, self._prompt, self.stops = tokenizer, prompt, stops
        self._before = str(tokenizer.decode(prompt, skip_special_tokens=True))
        self.tokens: list[int] = []
        self.given = ""  # to whoever listens
        self.why: Why | None = None

    @property
    def text(self) -> str:
        """What the tokens add to the prompt; alone some tokenizers drop their first space."""
        whole = str(self._tokenizer.decode([*self._prompt, *self.tokens], skip_special_tokens=True))
        if whole.startswith(self._before):
            return whole[len(self._before) :]
        return str(self._tokenizer.decode(self.tokens, skip_special_tokens=True))

    def ended_text(self) -> str:
        """The text before the first stop."""
        text = self.text
        at = min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=None)
        if at is not None:
            self.why = "stop"
        return text[:at]

    def next_piece(self) -> str:
        """What can be given since the last piece: no half character, no beginning of a stop."""
        text = self.ended_text()
        if self.why is None:
            text = text.rstrip(HALF)
            held = max((_overlap(text, stop) for stop in self.stops), default=0)
            text = text[: len(text) - held]
        piece = text[len(self.given) :] if text.startswith(self.given) else ""
        self.given += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text with which the stop begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class _Listener(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Takes the tokens of each step, gives pieces, and says which continuations have ended.

    A criterion and no streamer: streamers of transformers see one sequence only.
    """

    def __init__(
        self, rows: list[_Row], ends: set[int], on_piece: Callable[[Piece], None] | None
    ) -> None:
        self._rows, self._ends, self._on_piece = rows, ends, on_piece
        self._reads_text = on_piece is not None or any(row.stops for row in rows)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Takes the newest token of each sequence; (B,), which have ended."""
        newest = input_ids[:, -1].tolist()
        for index, (row, token) in enumerate(zip(self._rows, newest, strict=True)):
            if row.why is not None:
                continue
            if token in self._ends:
                row.why = "stop"
            else:
                row.tokens.append(token)
            if self._reads_text:
                piece = row.next_piece()
                if self._on_piece is not None and (piece or row.why):
                    self._on_piece(Piece(index, piece, row.why))
        return torch.tensor([row.why is not None for row in self._rows], device=input_ids.device)

    def finish(self) -> list[Spoken]:
        """All continuations, after the last piece of each that was cut off."""
        spoken = []
        for index, row in enumerate(self._rows):
            text = row.ended_text()
            why = row.why or "length"
            if row.why is None and self._on_piece is not None:
                rest = text[len(row.given) :] if text.startswith(row.given) else ""
                self._on_piece(Piece(index, rest, why))
            spoken.append(Spoken(text, tuple(row.tokens), why))
        return spoken


def speak(
    model: TandemModel,
    prompts: Sequence[Sequence[int]],
    options: SpeechOptions,
    on_piece: Callable[[Piece], None] | None = None,
) -> list[Spoken]:
    """Continues each prompt.

    Args:
        model: who.
        prompts: their token ids, at least one each.
        options: how.
        on_piece: called with each piece as soon as it is said; whatever it raises ends it all.
    """
    rows = [_Row(model.tokenizer, list(prompt), options.stops) for prompt in prompts]
    listener = _Listener(rows, model.ends | set(options.ends), on_piece)
    longest = max(len(prompt) for prompt in prompts)
    shape = len(prompts), longest
    tokens_BT, mask_BT = torch.full(shape, model.tokenizer.pad_token_id), torch.zeros(shape)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask_BT[row, longest - len(prompt) :] = 1
    sampling: dict[str, Any] = {**GREEDY}
    if options.temperature > 0:
        sampling |= {
            "do_sample": True,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": 0,
        }
    if options.seed is not None:
        torch.manual_seed(options.seed)
    with torch.no_grad():
        model.generate(
            input_ids=tokens_BT.to(model.device),
            attention_mask=mask_BT.long().to(model.device),
            voice=options.voice,
            max_new_tokens=options.max_tokens,
            stopping_criteria=StoppingCriteriaList([listener]),
            **sampling,
        )
    return listener.finish()


@torch.no_grad()
def shares_of(
    model: TandemModel, prompt: Sequence[int], tokens: Sequence[int]
) -> tuple[list[float], list[float]]:
    """The memory's share λ of the mixture for each of these tokens, and how fresh what it read was;
    no freshness where nothing was told.
    """
    if not tokens:
        return [], []
    whole = torch.tensor([[*prompt, *tokens[:-1]]], device=model.device)
    out = model(whole, voice="help", use_cache=False, logits_to_keep=len(tokens))
    mixing: list[float] = out.mixing[0].tolist()
    return mixing, [] if out.freshness is None else out.freshness[0].tolist()
