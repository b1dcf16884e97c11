"""From values to documents, and the messages about columns."""

from __future__ import annotations

import pytest

from actors.sources.columns import document, no_column
from actors.sources.documents import Document


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (["a"], [Document("a")]),
        ([None], []),
        ([" \n"], []),
        (["q", "a"], [Document("a", given="q")]),
        (["", "a"], [Document("a")]),
        ([None, "a"], []),
        (["q", None], []),
        (["q", " "], []),
    ],
)
def test_a_row_is_one_document_or_none(values: list[str | None], want: list[Document]) -> None:
    assert document(values) == want


def test_many_columns_are_not_all_listed() -> None:
    said = str(no_column("file", "x", [f"column{n}" for n in range(500)]))
    assert "column19 and 480 more" in said
    assert "column20" not in said


def test_a_missing_column_is_asked_of_every_row_before_a_config_that_may_not_be_there() -> None:
    said = str(no_column("file, line 3", "text", ["body"]))
    assert said.endswith(
        "there are: body; give every row that column, or name others in the run's config: "
        "text_column, or prompt_column and completion_column, or messages_column"
    )
