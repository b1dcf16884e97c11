"""What commands print to: the only place that makes a terminal's console.

Text is shown as it is. Nothing in it is read as markup, as an emoji's name or as something to
highlight, and control characters are left out: it comes from corpora, models, prompts, configs,
errors, logs and paths, whose brackets mean nothing here. Colour is given beside the text, as a
style. Characters that the stream can't encode are replaced.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from json import dumps, loads
from typing import IO, Any

import rich.console
from rich.text import Text

READER_GONE = 141  # 128 + SIGPIPE, as a shell says it
CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plain(text: str, style: str = "") -> Text:
    """A text as it is shown, without its control characters; for views that any console shows."""
    return Text(text.translate(CONTROLS), style)


class Console(rich.console.Console):
    """A terminal, a pipe or a file.

    Where it can't be written any more (its reader has ended, its disk is full), a command that does
    something goes on without it, and one that only shows something ends with `READER_GONE`.

    Args:
        ends_with_reader: whether the command only shows something.
        options: those of rich's console but for markup, emoji and highlight, which are off.
    """

    def __init__(self, ends_with_reader: bool = False, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if self.width < 1:  # COLUMNS=0, where nothing would be shown
            self.width = 80
        self._ends_with_reader = ends_with_reader

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as it is shown: in lines, cells and titles."""
        options |= {"markup": False, "emoji": False}
        return super().render_str(text.translate(CONTROLS), **options)

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a line, however long; a terminal wraps it, a pipe gets it whole."""
        self.print(text, style=style, soft_wrap=True)

    def print_json(self, json: str | None = None, **options: Any) -> None:
        """As rich's; in ASCII where the stream has no Unicode, since a `?` would be another value,
        and where there are control characters that JSON leaves as they are.
        """
        value = options.pop("data", None) if json is None else loads(json)
        text = dumps(value, ensure_ascii=False)
        is_safe = self.encoding.startswith("utf") and text.translate(CONTROLS) == text
        super().print_json(data=value, **{"ensure_ascii": not is_safe, **options})

    @property
    def file(self) -> IO[str]:
        """The stream; what it fails with on writing is a broken pipe, for `on_broken_pipe`."""
        return _Stream(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def on_broken_pipe(self) -> None:
        """Called by rich where the stream can't be written."""
        self.quiet = True
        with suppress(OSError, AttributeError):  # OSError, too, of streams that have no number
            if (stream := self.file.fileno()) in (1, 2):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)  # takes what is flushed when Python ends
                os.close(nowhere)
        if self._ends_with_reader:
            raise SystemExit(READER_GONE)
        if not self.stderr:
            Console(stderr=True).say(
                "warning: the output can't be written any more (a closed pipe, a full disk); the "
                "command goes on without it",
                "yellow",
            )


class _Stream:
    """Writes to `file`, with `?` for what its encoding lacks; whatever the operating system refuses
    is raised as a broken pipe.
    """

    def __init__(self, file: IO[str]) -> None:
        self._stream = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as err:
            return self._stream.write(text.encode(err.encoding, "replace").decode(err.encoding))
        except OSError as err:
            raise BrokenPipeError(err.errno, err.strerror) from err

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as err:
            raise BrokenPipeError(err.errno, err.strerror) from err


def replace_unencodable() -> None:
    """Has standard output and error show `?` for what their encoding lacks, also where something
    else than a `Console` writes, such as a message on a mistyped command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
