from __future__ import annotations

import pytest

from actors import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (7, "7"), (1234567, "1,234,567"), (0.5, "0.5000"), (-99.99, "-99.9900"),
     (123.456, "123.5"), (1234.5, "1,234"), (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_figures(value: float | None, text: str) -> None:
    assert formats.figure(value) == text


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(0.1234, ".1%", "12.3%"), (0.5, "+.3f", "+0.500"), (None, ".1%", "–")],
)
def test_figures_in_a_form_of_their_own(value: float | None, form: str, text: str) -> None:
    assert formats.figure(value, form) == text


@pytest.mark.parametrize(
    ("num_bytes", "text", "memory"),
    [(999, "999 bytes", "0 MiB"), (2_500, "2.5 kB", "0 MiB"), (3 << 20, "3.1 MB", "3 MiB"),
     (5 << 30, "5.4 GB", "5.0 GiB"), (4096 << 30, "4,398.0 GB", "4,096.0 GiB")],
)  # fmt: skip
def test_sizes(num_bytes: int, text: str, memory: str) -> None:
    assert (formats.text_size(num_bytes), formats.memory_size(num_bytes)) == (text, memory)
    assert formats.mib(1536 << 10) == "1.5 MiB"


def test_counts() -> None:
    assert [formats.count(n) for n in (1_250_000, 7_000_000_000)] == ["1.25 M", "7.00 B"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.clock(seconds) == text


def test_lists_say_how_many_more_there_are() -> None:
    assert formats.listed([], 2) == ""
    assert formats.listed(["a", "b"], 2) == "a, b"
    assert formats.listed(["a", "b", "c", "d"], 2, "; ") == "a; b and 2 more"


def test_an_error_is_its_first_line_or_its_type() -> None:
    err = ValueError("\n what happened\n and where\n")
    assert formats.first_line(err) == "what happened"
    assert formats.first_line(err, with_type=True) == "ValueError: what happened"
    assert formats.first_line(TimeoutError()) == "TimeoutError"
    assert formats.first_line(TimeoutError(), with_type=True) == "TimeoutError"
    assert len(formats.first_line(OSError("x" * 10_000))) == 500
