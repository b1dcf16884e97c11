"""How good a writer the memory is: does the data layer hold likely what the memory writes?

Each written document has a loss, the data layer's mean loss per token where a document of the run
has something to learn: at its last tokens, as many as are learned of the median held-out document.
It counts as likely up to the loss that 95 % of the held-out documents stay below: not the training
documents, of which a data layer may know each by heart. Called by the evaluator.

Shapes: B documents, T tokens, N positions.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch

from actors.corpus.windows import PADDING, Piece, Windows
from actors.layers.pair import Pair
from actors.measuring.probing import pad_right
from actors.measuring.voices import BATCH_TOKENS, Voice, batches, predict_voice_at
from actors.pair.writing import write_documents
from actors.tokenizers.tokenizer import Tokenizer

LONGEST = 64  # tokens of a document that are compared
LIKELY = 0.95  # of the held-out documents have a loss that counts as likely
COMPARED_WINDOWS = 24  # of held-out text


def written_figures(
    pair: Pair,
    tokenizer: Tokenizer,
    heldout: Windows,
    num: int,
    seed: int,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, float]:
    """Figures of `num` documents that the memory writes; empty where it has nothing to compare.

    Keys: written_likely_frac; written_nats, nats per token of the data layer; written_nats_limit,
    up to which a document counts as likely; written_tokens, of the mean document.

    Args:
        pair: both layers.
        tokenizer: the run's.
        heldout: windows of held-out text.
        num: documents.
        seed: of their draws.
        batch_tokens: of a forward pass.
    """
    compared = [piece for piece in documents(heldout) if len(piece.tokens) > piece.num_given]
    if not compared or not num:
        return {}
    num_last = int(statistics.median(len(p.tokens) - max(1, p.num_given) for p in compared))
    limit = float(np.quantile(losses_of(pair, compared, None, batch_tokens), LIKELY))
    longest = min(LONGEST, heldout.tokens_NT.shape[1])
    written = write_documents(pair.memory, tokenizer, num, seed, longest, windows=1)
    figures = {"written_likely_frac": 0.0, "written_nats_limit": limit}
    if written:
        found = losses_of(pair, written, max(1, num_last), batch_tokens)
        figures["written_likely_frac"] = sum(loss <= limit for loss in found) / num
        figures["written_nats"] = statistics.fmean(found)
        figures["written_tokens"] = statistics.fmean(len(piece.tokens) for piece in written)
    return figures


def documents(windows: Windows) -> list[Piece]:
    """The documents of the windows, each cut to what is compared, with the part that is given."""
    found = []
    for tokens_T, segments_T, learn_T in zip(
        windows.tokens_NT, windows.segments_NT, windows.learn_NT, strict=True
    ):
        for segment in range(int(segments_T.max(initial=PADDING)) + 1):
            at = np.flatnonzero(segments_T == segment)[:LONGEST]
            learned = np.flatnonzero(learn_T[at])
            if len(at) > 1 and len(learned) and learned[-1] > 0:
                found.append(Piece(tokens_T[at].tolist(), int(learned[0])))
    return found


@torch.no_grad()
def losses_of(
    pair: Pair,
    pieces: Sequence[Piece],
    num_last: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    voice: Voice = "own",
) -> list[float]:
    """A voice's loss of each document, nats per token: of its last tokens, or of all that are not
    given.
    """
    found = [0.0] * len(pieces)
    for indices in batches([len(piece.tokens) for piece in pieces], batch_tokens, len(pieces)):
        rows = [[int(token) for token in pieces[i].tokens] for i in indices]
        firsts = [
            max(1, pieces[i].num_given if num_last is None else len(row) - num_last)
            for i, row in zip(indices, rows, strict=True)
        ]
        tokens_BT, segments_BT = pad_right(rows, 0, pair.memory.values.device)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for at, (row, first) in enumerate(zip(rows, firsts, strict=True)):
            where_BT[at, first - 1 : len(row) - 1] = True
        targets_N = tokens_BT.roll(-1, 1)[where_BT]
        parts, start = [], 0
        for part in predict_voice_at(pair, voice, tokens_BT, segments_BT, where_BT):
            targets = targets_N[start : start + len(part.logp)]
            parts.append(-part.logp.gather(1, targets[:, None])[:, 0])
            start += len(targets)
        sums = iter(torch.cat(parts).split([len(r) - f for r, f in zip(rows, firsts, strict=True)]))
        for i in indices:
            found[i] = float(next(sums).mean())
    return found
