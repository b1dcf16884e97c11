from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable

import pytest
from rich.console import Group
from rich.live import Live
from rich.table import Table

from orchestrator.console import READER_GONE, Console

TEXT = "[INST] hi [/INST] [red] :smile: {x} <b> 'a' 1.5 \\[ [/]"


def table(text: str) -> Table:
    found = Table(text, title=text, caption=text)
    found.add_row(text)
    return found


def live(console: Console) -> None:
    with Live(Group(TEXT, table(TEXT)), console=console, auto_refresh=False) as view:
        view.refresh()


WAYS: dict[str, tuple[Callable[[Console], None], int]] = {
    "line": (lambda console: console.say(TEXT), 1),
    "print": (lambda console: console.print(TEXT, highlight=True), 1),
    "markup": (lambda console: console.print(TEXT, markup=True, emoji=True), 1),
    "group": (lambda console: console.print(Group(TEXT, TEXT)), 2),
    "table": (lambda console: console.print(table(TEXT)), 4),
    "live": (live, 5),
}


@pytest.mark.parametrize("way", WAYS)
def test_text_is_shown_as_it_is_wherever_it_is_printed(way: str) -> None:
    out = io.StringIO()
    show, times = WAYS[way]
    show(Console(file=out, width=120))
    assert out.getvalue().count(TEXT) == times


@pytest.mark.parametrize("way", WAYS)
def test_control_characters_of_a_text_do_not_reach_the_terminal(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TEXT", "a\x1b[2Jb\x07\x9bc\rd")
    out = io.StringIO()
    WAYS[way][0](Console(file=out, width=120))
    assert "a[2Jbcd" in out.getvalue()
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(out.getvalue())


def test_a_line_is_one_line_however_narrow_the_terminal() -> None:
    out = io.StringIO()
    Console(file=out, width=10).say("word " * 20)
    assert len(out.getvalue().splitlines()) == 1


def encoded(encoding: str, show: Callable[[Console], None]) -> str:
    """What arrives where the stream has that encoding."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show(Console(file=stream, width=60))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "shift-jis"])
def test_characters_that_the_stream_lacks_are_replaced(encoding: str) -> None:
    said = encoded(encoding, lambda console: console.say("report: runs/ḁ – !/report.html"))
    assert said == "report: runs/? ? !/report.html\n"
    assert "|" in encoded(encoding, lambda console: console.print(table("ḁ")))


def test_a_name_of_a_file_that_is_no_unicode_can_be_printed() -> None:
    assert encoded("utf-8", lambda console: console.say("notes\udcff.txt")) == "notes?.txt\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_json_says_the_same_in_every_encoding(encoding: str) -> None:
    value = {"long": TEXT * 9, "other": "λ\x1b東", "more": "a\x9bb"}
    for show in (lambda c: c.print_json(data=value), lambda c: c.print_json(json.dumps(value))):
        said = encoded(encoding, show)
        assert json.loads(said) == value
        assert not {"\x1b", "\x9b"} & set(said)


class Broken(io.StringIO):
    """Takes `good` writes, then fails."""

    def __init__(self, number: int, good: int = 1) -> None:
        super().__init__()
        self._number, self._good = number, good

    def write(self, text: str) -> int:
        if self._good == 0:
            raise OSError(self._number, "no more")
        self._good -= 1
        return super().write(text)


REFUSALS = [errno.EPIPE, errno.EIO, errno.ENOSPC]


@pytest.mark.parametrize("number", REFUSALS)
def test_a_command_that_does_something_goes_on_without_its_output_and_says_so_once(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Broken(number)
    console = Console(file=out)
    for line in ("one", "two", "three"):
        console.say(line)
    assert out.getvalue() == "one\n"
    assert capsys.readouterr().err.count("warning: the output can't be written any more") == 1


@pytest.mark.parametrize("number", REFUSALS)
def test_a_command_that_only_shows_something_ends_with_its_reader(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(ends_with_reader=True, file=Broken(number))
    console.say("one")
    with pytest.raises(SystemExit) as ended:
        console.say("two")
    assert ended.value.code == READER_GONE
    assert capsys.readouterr().err == ""


def test_a_live_view_whose_terminal_goes_away_does_not_end_what_it_shows() -> None:
    console = Console(file=Broken(errno.EIO, good=3), force_terminal=True, width=60)
    with Live("now", console=console, refresh_per_second=50) as view:
        for at in range(20):
            view.update(f"now {at}", refresh=True)
            console.say(f"line {at}")
    assert console.quiet
