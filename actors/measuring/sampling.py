"""Documents that begin as real text does and that the data layer continues.

On these the memory learns the data layer's own answers, of several tokens too, also where the
text has another one. Called by the memory trainer.

Shapes: N documents, P tokens of the longest opening, G tokens generated, T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actors.corpus.windows import PADDING, Piece, Windows
from actors.layers.data_layer import DataLayer

SLACK = 4  # tokens by which an answer may be longer than the text's own
NO_END = -1  # an id that no token has: None would be the model's own end
NO_TOKEN = -1  # fills the rows of documents that were cut before their end


def openings(windows: Windows) -> list[Piece]:
    """The documents of the windows, in order, each with the part that is given.

    Of one in which everything is to be predicted, the first half is given.
    """
    found = []
    for tokens_T, segments_T, learn_T in zip(
        windows.tokens_NT, windows.segments_NT, windows.learn_NT, strict=True
    ):
        for segment in range(int(segments_T.max(initial=PADDING)) + 1):
            at = np.flatnonzero(segments_T == segment)
            learned = np.flatnonzero(learn_T[at])
            if len(at) < 2 or not len(learned):
                continue
            given = int(learned[0]) if learned[0] > 1 else max(1, len(at) // 2)
            found.append(Piece(tokens_T[at], given))
    return found


@torch.no_grad()
def continued(
    layer: DataLayer, pieces: Sequence[Piece], window: int, end: int | None, device: torch.device
) -> Tensor:
    """Rows (N, 1 + T): how many tokens were given, and the openings with what the layer adds.

    Sampled with reads off; filled with `end` after one, and `NO_TOKEN` after a cut. Where no mark
    closes documents (None), each becomes as long as its text.
    """
    rows_NT = torch.full((len(pieces), 1 + window), NO_TOKEN, dtype=torch.int32)
    if not pieces:
        return rows_NT
    longest = max(piece.num_given for piece in pieces)
    learned = max(len(piece.tokens) - piece.num_given for piece in pieces)
    fill = 0 if end is None else end
    tokens_NP = torch.full((len(pieces), longest), fill)
    for row, piece in enumerate(
        pieces
    ):  # to the left, so that all are continued from the last column
        given = torch.tensor(np.asarray(piece.tokens[: piece.num_given]), dtype=torch.int64)
        tokens_NP[row, longest - piece.num_given :] = given
    mask_NP = torch.arange(longest) >= torch.tensor([[longest - p.num_given] for p in pieces])
    out_NG = layer.generate(
        tokens_NP.to(device),
        attention_mask=mask_NP.long().to(device),
        do_sample=True,  # from its distribution, whatever its generation_config prefers
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max(1, min(learned + SLACK, window - longest)),
        eos_token_id=NO_END if end is None else end,
        pad_token_id=fill,
    )[:, longest:]
    new_NG = out_NG.cpu().int()
    for row, piece in enumerate(pieces):
        given = tokens_NP[row, longest - piece.num_given :].int()
        whole = torch.cat([given, new_NG[row]])[:window]
        rows_NT[row, 0] = piece.num_given
        rows_NT[row, 1 : 1 + len(whole)] = whole
    return rows_NT


def pieces_of(rows_NT: Tensor, end: int | None) -> list[Piece]:
    """The documents that `continued` wrote, each up to its end; those that it left without a token
    are dropped.
    """
    found = []
    for given, *tokens in rows_NT.tolist():
        length = tokens.index(NO_TOKEN) if NO_TOKEN in tokens else len(tokens)
        if end is not None and end in tokens[given:length]:
            length = tokens.index(end, given) + 1
        if length > given and tokens[given] != end:
            found.append(Piece(tokens[:length], given))
    return found
