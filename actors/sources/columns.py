"""The document in the chosen columns of a row, and the errors where they are missing or no text."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from actors.formats import listed
from actors.sources.documents import Document
from actors.wire import CorpusError

SHOWN_COLUMNS = 20


def document(values: Sequence[str | None]) -> list[Document]:
    """The document of one row, given its values of the chosen columns; empty where one is null or
    the last, which is predicted, is blank.
    """
    *given, text = values
    if text is None or not text.strip() or any(g is None for g in given):
        return []
    return [Document(text, given=given[0] or "" if given else "")]


def no_column(where: str, column: str, there: Sequence[str]) -> CorpusError:
    """The error for a missing column; names those present and the nearest one."""
    near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
    return CorpusError(
        f"{where}: no column {column}"
        + (f"; did you mean {near[0]}?" if near else ";")
        + f" there are: {listed(there, SHOWN_COLUMNS) or 'none'}; set text_column, or "
        "prompt_column and completion_column"
    )


def wrong_type(where: str, column: str, got: str) -> CorpusError:
    """The error for a column that holds something other than text."""
    return CorpusError(
        f"{where}: column {column}: expected text, got {got}; choose another column, or convert it"
    )
