"""The sample of text that a memory keeps, so that what is written later can leave it as it is.

A pure function of the corpus, the stream and the seed: the first windows of the memory group's own
stream, of which those with the smallest digests are kept. So it needs no state: a restart, a replay
and a run from before this existed get the same sample as a run that was never interrupted.

Shapes: N windows, T tokens.
"""

from __future__ import annotations

import hashlib

import numpy as np

from actors.corpus.corpus import Corpus
from actors.corpus.windows import PADDING, Windows

KEPT_TOKENS = 128  # of a window: many places of the corpus rather than a few long ones
CHOICE = 4  # times as many positions are read as are kept, if the corpus has them


def kept_windows(corpus: Corpus, stream: str, num_reads: int) -> Windows:
    """Windows with about so many positions to predict, at most `KEPT_TOKENS` tokens each.

    Args:
        corpus: what the memory trains on.
        stream: of which it reads windows.
        num_reads: positions; 0: none are kept.
    """
    length = min(corpus.window, KEPT_TOKENS)
    found, num, chunk = [Windows.empty(length)], 0, 0
    while num < CHOICE * num_reads and chunk < corpus.chunks_per_epoch:
        whole = corpus.chunk(stream, chunk)
        cut = Windows(
            whole.tokens_NT[:, :length], whole.segments_NT[:, :length], whole.learn_NT[:, :length]
        )
        found.append(cut)
        num, chunk = num + int(positions_of(cut).sum()), chunk + 1
    windows = Windows.concat(found)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in windows.tokens_NT]
    order = np.array(sorted(range(len(windows)), key=digests.__getitem__), np.int64)
    counted = positions_of(windows)[order]
    num_kept = int(np.searchsorted(counted.cumsum(), num_reads)) + 1 if num_reads else 0
    return windows[np.sort(order[:num_kept])]


def positions_of(windows: Windows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions of each window that have something to predict next."""
    segments = windows.segments_NT
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != PADDING)
    return np.asarray((same & windows.learn_NT[:, 1:]).sum(1), np.int64)
