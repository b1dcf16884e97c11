"""Bars of libraries that count with tqdm, seen as progress."""

from __future__ import annotations

import pytest

from actors.machine.progress import bars_as

Seen = list[tuple[str, int, int | None]]


def test_what_a_library_counts_is_seen_and_nothing_is_drawn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: Seen = []
    bar = bars_as(lambda what, done=0, total=None: seen.append((what, done, total)), "own")
    assert list(bar(range(3), desc="Loading weights")) == [0, 1, 2]
    assert seen[0] == ("own: loading weights", 0, 3)
    assert seen[-1] == ("own: loading weights", 3, 3)
    counted = bar(total=2, desc="Asking: ")
    counted.update(2)
    counted.close()
    assert seen[-1] == ("own: asking", 2, 2)
    assert "".join(capsys.readouterr()) == ""


def test_a_bar_that_is_off_or_says_nothing_is_not_seen() -> None:
    seen: Seen = []
    bar = bars_as(lambda what, done=0, total=None: seen.append((what, done, total)), "own")
    assert list(bar(range(3))) == list(bar(range(3), desc="Asking", disable=True)) == [0, 1, 2]
    assert seen == []
