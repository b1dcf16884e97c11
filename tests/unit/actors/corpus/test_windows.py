"""Packing: which documents share a window, and what is cut."""

from __future__ import annotations

import itertools

import numpy as np

from actors.corpus.windows import PADDING, Piece, Windows, pack

FILL = 99


def piece(num: int, first: int = 0, given: int = 0, subject: str | None = None) -> Piece:
    return Piece(list(range(first, first + num)), given, subject)


def documents_of(windows: Windows) -> list[tuple[int, tuple[int, ...]]]:
    """(window, tokens) of every packed document, read off its segments."""
    found = []
    for row in range(len(windows)):
        segments = windows.segments_NT[row].tolist()
        for _, group in itertools.groupby(
            (i for i, s in enumerate(segments) if s != PADDING), key=segments.__getitem__
        ):
            at = list(group)
            found.append((row, tuple(windows.tokens_NT[row, at[0] : at[-1] + 1].tolist())))
    return found


def test_short_documents_share_a_window_in_order() -> None:
    windows = pack([piece(3), piece(4, 10)], 10, FILL)
    assert windows.tokens_NT.tolist() == [[0, 1, 2, 10, 11, 12, 13, FILL, FILL, FILL]]
    assert windows.segments_NT.tolist() == [[0, 0, 0, 1, 1, 1, 1, -1, -1, -1]]


def test_what_is_given_is_not_learned() -> None:
    windows = pack([piece(4, given=3), piece(3, 10, given=1)], 10, FILL)
    assert windows.learn_NT.tolist() == [[*[False] * 3, True, False, True, True, *[False] * 3]]


def test_a_document_longer_than_a_window_is_cut() -> None:
    windows = pack([piece(25)], 10, FILL)
    assert [tokens for _, tokens in documents_of(windows)] == [
        tuple(range(10)),
        tuple(range(10, 20)),
        tuple(range(20, 25)),
    ]


def test_the_rest_of_a_long_document_is_packed_with_others() -> None:
    rows = [row for row, tokens in documents_of(pack([piece(14), piece(5, 50)], 10, FILL))]
    assert rows == [0, 1, 1]


def test_a_single_token_that_is_left_over_is_dropped() -> None:
    assert len(documents_of(pack([piece(21)], 10, FILL))) == 2


def test_what_is_given_of_a_long_document_stays_given_in_its_rest() -> None:
    windows = pack([piece(18, given=13)], 10, FILL)
    learned = windows.tokens_NT[windows.learn_NT].tolist()
    assert learned == [13, 14, 15, 16, 17]


def test_no_subject_comes_twice_in_a_window() -> None:
    documents = [piece(3, 10 * i, subject="ab"[i % 2]) for i in range(6)]
    rows = [(row, tokens[0] // 10 % 2) for row, tokens in documents_of(pack(documents, 30, FILL))]
    assert len(set(rows)) == 6


def test_documents_without_a_subject_may_share_a_window() -> None:
    assert len(pack([piece(3), piece(3), piece(3)], 10, FILL)) == 1


def test_packing_keeps_every_document_once() -> None:
    rng = np.random.default_rng(0)
    documents = [piece(int(n), 1000 * i) for i, n in enumerate(rng.integers(2, 31, 200))]
    packed = [tokens for _, tokens in documents_of(pack(documents, 32, FILL))]
    assert sorted(packed) == [tuple(d.tokens) for d in documents]


def test_packing_wastes_little() -> None:
    rng = np.random.default_rng(0)
    windows = pack([piece(int(n)) for n in rng.integers(2, 31, 500)], 64, FILL)
    assert windows.num_tokens / windows.tokens_NT.size > 0.9


def test_nothing_packs_into_no_windows() -> None:
    assert pack([], 10, FILL).tokens_NT.shape == (0, 10)


def test_tokens_may_be_an_array() -> None:
    pieces = [piece(25), piece(4, 50, given=2)]
    arrays = [Piece(np.array(p.tokens, np.int32), p.num_given) for p in pieces]
    one, other = pack(pieces, 10, FILL), pack(arrays, 10, FILL)
    assert np.array_equal(one.tokens_NT, other.tokens_NT)
    assert np.array_equal(one.learn_NT, other.learn_NT)
