"""What the data layer writes from nothing, to be rehearsed beside what the memory wrote.

What a memory does not know it does not write, so that nothing would keep it. The data layer before
teaching writes what it knows itself. Not every one can: one that learned answers alone says nothing
of use about what leads to them. Trains nothing. Called by `jobs.teach`.

Shapes: B documents, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.corpus.block_reader import encode
from actors.corpus.windows import Piece
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.pair.drawing import Draws
from actors.pair.written_check import losses_of
from actors.sources.documents import Document
from actors.teaching.texts import texts_of
from actors.tokenizers.tokenizer import Tokenizer

AT_A_TIME = 512  # documents that are written together
READ = 500  # documents of the memory, on which it is seen whether the data layer can write
WORSE, LEAST = 1.5, 0.1  # of its loss to the memory's, at most; of the documents, more than
TEMPERATURE = 0.9  # at 1 half of what it writes is made up (decision 0055)


def can_write(pair: Pair, tokenizer: Tokenizer, texts: Sequence[str], window: int) -> bool:
    """Whether the data layer has learned whole documents: some of those that the memory wrote are
    about as likely to it as to the memory. Not all need be, since the memory may have learned what
    it has not.
    """
    pieces = [p.cut(0, window) for p in encode(tokenizer, [Document(t) for t in texts[:READ]])]
    own, memory = losses_of(pair, pieces), losses_of(pair, pieces, voice="memory")
    likely = sum(a <= WORSE * b for a, b in zip(own, memory, strict=True))
    return likely > LEAST * len(pieces)


def own_texts(
    layer: DataLayer,
    tokenizer: Tokenizer,
    num: int,
    seed: int,
    window: int,
    progress: Progress = unseen,
) -> list[str]:
    """Different documents that the data layer writes from nothing, as text, cut where a window
    ends; those that it leaves empty are left out.

    Args:
        layer: the data layer before teaching.
        tokenizer: the run's.
        num: documents that are written, with those that say the same.
        seed: of the draws.
        window: tokens of a window.
        progress: sees how many are written.
    """
    device = next(layer.parameters()).device
    opening = [*(tokenizer.opening or (tokenizer.end_of_text,))]
    found: list[str] = []
    for start in range(0, num, AT_A_TIME):
        progress("the data layer writes", start, num)
        numbers = range(start, min(start + AT_A_TIME, num))
        draws = Draws.of("own", seed, numbers, window, device, temperature=TEMPERATURE)
        rows = written_by(layer, opening, draws, tokenizer.end)
        found += texts_of(tokenizer, [Piece(row, len(opening)) for row in rows])
    return list(dict.fromkeys(found))


@torch.no_grad()
def written_by(
    layer: DataLayer, opening: Sequence[int], draws: Draws, end: int | None
) -> list[list[int]]:
    """Documents (B) of at most T tokens that the layer writes after an opening, reads off, each up
    to and with `end`; one that has ended is computed no more.

    Args:
        layer: the data layer.
        opening: what all of them begin with.
        draws: of their tokens, (B, T).
        end: token that ends a document; None: none does.
    """
    device = next(layer.parameters()).device
    num, window = draws.shape
    rows = [list(opening) for _ in range(num)]
    live, cache = list(range(num)), layer.new_cache()
    tokens_BT = torch.tensor(rows, device=device)
    for at in range(len(opening), window):
        out, _ = layer.run_model(None, input_ids=tokens_BT, past_key_values=cache, use_cache=True)
        drawn_B = draws.take(out.logits[:, -1, : layer.num_tokens].float(), at)
        still = []
        for place, token in enumerate(drawn_B.tolist()):
            rows[live[place]].append(token)
            if token != end:
                still.append(place)
        if not still:
            break
        if len(still) < len(live):
            kept = torch.tensor(still, device=device)
            cache.batch_select_indices(kept)
            draws.select(kept)
            drawn_B = drawn_B[kept]
            live = [live[place] for place in still]
        tokens_BT = drawn_B[:, None]
    return rows
