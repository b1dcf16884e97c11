"""What a text costs each voice: nats per token, each token once, with as much before it as fits.

Standard errors take the tokens of a window together, since neighbours are alike. Called by
`tandem evaluate --text`.

Shapes: B windows, T tokens of a window, N tokens that count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from actors.corpus.block_reader import encode
from actors.corpus.windows import Piece
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.measuring.probing import pad_right
from actors.measuring.voices import BATCH_TOKENS, VOICES, predict_voice_at
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer

LONGEST = 1024  # tokens of a window where the model takes more


@dataclass(frozen=True)
class Stretch:
    """Tokens of a window, the positions in it whose next token counts, and those next tokens."""

    tokens: tuple[int, ...]
    at: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class TextLosses:
    """What a text costs.

    Attributes:
        num_tokens, num_bytes, num_windows: of the text.
        losses, errors: nats per token by voice, and their standard errors.
        gain, gain_error: what the memory helps: own minus help, of the same tokens.
        mixing: λ's mean.
        freshness: how far what was told opened it; None: nothing was told.
    """

    num_tokens: int
    num_bytes: int
    num_windows: int
    losses: dict[str, float]
    errors: dict[str, float]
    gain: float
    gain_error: float
    mixing: float
    freshness: float | None

    def bits_per_byte(self, voice: str) -> float:
        """Comparable between tokenizers."""
        return self.losses[voice] * self.num_tokens / (math.log(2) * self.num_bytes)


def stretches(piece: Piece, window: int) -> Iterator[Stretch]:
    """Windows over a document, half a window apart; each token that is learned counts once, but
    the first. Windows in which none does are left out.
    """
    tokens = [int(token) for token in piece.tokens]
    learn_T = piece.learn_T
    if learn_T is None:
        learn_T = np.arange(len(tokens)) >= piece.num_given
    step, done = max(1, window // 2), 0
    while done < len(tokens) - 1:
        start = 0 if done == 0 else done - (window - step)
        stop = min(start + window, len(tokens) - 1)
        at = [i for i in range(done, stop) if learn_T[i + 1]]
        if at:
            targets = tuple(tokens[i + 1] for i in at)
            yield Stretch(tuple(tokens[start:stop]), tuple(i - start for i in at), targets)
        done = stop


def document_pieces(tokenizer: Tokenizer, document: Document) -> list[Piece]:
    """A document as in training, without the mark that closes a text; the first token is given."""
    if document.chat is not None:
        return encode(tokenizer, [document])
    opening = tokenizer.opening or (tokenizer.end_of_text,)
    [(ids, num_given)] = tokenizer.encode_pairs([(document.given, document.text)])
    return [Piece([*opening, *ids], len(opening) + num_given)]


def _bytes_of(tokenizer: Tokenizer, document: Document, pieces: Sequence[Piece]) -> int:
    """Bytes of what is learned of a document."""
    if document.chat is None:
        return len(document.text.encode())
    learned = (np.asarray(one.tokens)[one.learn_T] for one in pieces if one.learn_T is not None)
    return sum(len(tokenizer.decode(ids.tolist()).encode()) for ids in learned)


@torch.no_grad()
def text_losses(
    pair: Pair,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    longest: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = unseen,
) -> TextLosses:
    """What documents cost.

    Args:
        pair, tokenizer: of a run.
        documents: texts, all of which count but what is given of them; chats, of which what the
            assistant says does.
        longest: tokens that the model takes; None: any number.
        batch_tokens: of a forward pass.
        progress: is told how many windows are done.

    Raises:
        ValueError: there is no token to predict.
        ConfigError: there is a chat, and the tokenizer has no chat template.
    """
    window = min(longest or LONGEST, LONGEST)
    pieces = [document_pieces(tokenizer, document) for document in documents]
    windows = [one for some in pieces for piece in some for one in stretches(piece, window)]
    if not windows:
        raise ValueError("the text is empty")
    device = pair.memory.values.device
    size = max(1, batch_tokens // window)
    parts: dict[str, list[Tensor]] = {voice: [] for voice in VOICES}
    mixing, fresh = [], []
    for start in range(0, len(windows), size):
        progress("reading the text", start, len(windows))
        some = windows[start : start + size]
        tokens_BT, _ = pad_right([one.tokens for one in some], 0, device)
        # no token sees the padding after it; a mask would hide where a model's attention slides
        segments_BT = torch.zeros_like(tokens_BT)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for row, one in enumerate(some):
            where_BT[row, list(one.at)] = True
        targets_N = torch.tensor([t for one in some for t in one.targets], device=device)
        for voice in VOICES:
            at = 0
            for said in predict_voice_at(pair, voice, tokens_BT, segments_BT, where_BT):
                wanted = targets_N[at : at + len(said.logp), None]
                parts[voice].append(-said.logp.gather(1, wanted)[:, 0].float().cpu())
                at += len(said.logp)
                if said.mixing is not None:
                    mixing.append(said.mixing.cpu())
                if said.freshness is not None:
                    fresh.append(said.freshness.cpu())
    nats = {voice: torch.cat(found).double() for voice, found in parts.items()}
    owner_N = torch.repeat_interleave(
        torch.arange(len(windows)), torch.tensor([len(one.targets) for one in windows])
    )
    gain = _mean_and_error(nats["own"] - nats["help"], owner_N)
    found_by = {voice: _mean_and_error(nats[voice], owner_N) for voice in VOICES}
    return TextLosses(
        num_tokens=len(owner_N),
        num_bytes=sum(map(_bytes_of, repeat(tokenizer), documents, pieces)),
        num_windows=len(windows),
        losses={voice: mean for voice, (mean, _) in found_by.items()},
        errors={voice: error for voice, (_, error) in found_by.items()},
        gain=gain[0],
        gain_error=gain[1],
        mixing=float(torch.cat(mixing).mean()),
        freshness=float(torch.cat(fresh).mean()) if fresh else None,
    )


def _mean_and_error(values_N: Tensor, owner_N: Tensor) -> tuple[float, float]:
    """Mean, and its standard error over windows; of one window it is not known (nan)."""
    mean, num = values_N.mean(), int(owner_N[-1]) + 1
    off_W = torch.zeros(num, dtype=values_N.dtype).index_add_(0, owner_N, values_N - mean)
    if num < 2:
        return float(mean), math.nan
    error = (off_W.square().sum() * num / (num - 1)).sqrt() / len(values_N)
    return float(mean), float(error)
