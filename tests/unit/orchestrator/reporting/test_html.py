"""Pages from templates."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from orchestrator.reporting.html import _environment, render

PART = "{% extends 'page.html' %}{% block body %}{{ parts.NAME(*values) }}{% endblock %}"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A page with one part, of a package with templates of its own that extend ours."""
    folder = tmp_path / "other_pages" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text('"""Pages."""')
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, *values: object, heading: str = "h") -> str:
        (folder / f"{name}.html").write_text(PART.replace("NAME", name))
        page = {"heading": heading, "sub": heading, "title": heading}
        return render(f"{name}.html", "other_pages", values=values, **page)

    yield make
    sys.modules.pop("other_pages")
    _environment.cache_clear()


def test_a_value_that_a_template_asks_for_and_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("page.html", heading="x", title="")


def test_text_is_escaped_in_every_part(made: Callable[..., str]) -> None:
    hostile = "<script>'&\""
    for page in (
        made("card", hostile, hostile, heading=hostile),
        made("table", [hostile], [[hostile]], heading=hostile),
    ):
        assert "<script" not in page
        assert page.count("&lt;script&gt;") == 5


def test_numbers_stand_on_the_right_and_long_headings_break_at_their_dots(
    made: Callable[..., str],
) -> None:
    page = made("table", ["heldout.own_loss"], [["1,234.50"], ["-3.5%"], ["v1"]])
    assert "<th class=n>heldout.<wbr>own_loss" in page
    assert page.count("<td class=n>") == 2


def test_what_was_before_and_after_and_what_is_not_known_stand_below_numbers(
    made: Callable[..., str],
) -> None:
    rows = [["a → b", "0.5% → +1.0%"], ["-", "–"], ["", ""]]
    page = made("table", ["figure", "value"], rows)
    assert "<th>figure" in page
    assert "<th class=n>value" in page
    assert page.count("<td class=n>") == 2


def test_a_table_without_headings_has_no_row_for_them(made: Callable[..., str]) -> None:
    page = made("table", ["", ""], iter([["steps", "30"]]))
    assert "<th" not in page
    assert "<td>30" in page
