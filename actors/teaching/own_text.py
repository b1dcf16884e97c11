"""What the data layer writes from nothing, to be rehearsed beside what the memory wrote.

What a memory does not know it does not write, so that nothing would keep it. The data layer before
teaching writes what it knows itself. Not every one can: one that learned answers alone says nothing
of use about what leads to them. Trains nothing. Called by `jobs.teach`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.corpus.windows import Piece
from actors.layers.batch import to_batch
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.machine.seeds import seed_of
from actors.measuring.heldout import heldout_figures
from actors.measuring.sampling import continued, pieces_of
from actors.teaching.texts import in_windows, texts_of
from actors.tokenizers.tokenizer import Tokenizer

AT_A_TIME = 512  # documents that are written together
READ = 500  # documents of the memory, on which it is seen whether the data layer can write
WORSE = 1.5  # its loss there, over the memory's own, up to which it can


def can_write(
    pair: Pair, tokenizer: Tokenizer, texts: Sequence[str], window: int, progress: Progress = unseen
) -> bool:
    """Whether the data layer has learned whole documents: those that the memory wrote are about as
    likely to it as to the memory.
    """
    windows = in_windows(tokenizer, texts[:READ], window)
    device = pair.memory.values.device
    found = heldout_figures(pair, to_batch(windows, device), progress=progress)
    return found["own_loss"] < WORSE * found["self_loss"]


def own_texts(
    layer: DataLayer,
    tokenizer: Tokenizer,
    num: int,
    seed: int,
    window: int,
    progress: Progress = unseen,
) -> list[str]:
    """Documents that the data layer writes from nothing, as text, cut where a window ends; those
    that it leaves empty are left out.

    Args:
        layer: the data layer before teaching.
        tokenizer: the run's.
        num: documents.
        seed: of the draws.
        window: tokens of a window.
        progress: sees how many are written.
    """
    opening = [*(tokenizer.opening or (tokenizer.end_of_text,))]
    piece = Piece([*opening, *opening[:1] * (window - len(opening))], len(opening))
    device = next(layer.parameters()).device
    found: list[str] = []
    for start in range(0, num, AT_A_TIME):
        progress("the data layer writes", start, num)
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(seed, "own", start))
            pieces = [piece] * min(AT_A_TIME, num - start)
            rows_NT = continued(layer, pieces, window, tokenizer.end, device)
        found += texts_of(tokenizer, pieces_of(rows_NT, tokenizer.end))
    return found
