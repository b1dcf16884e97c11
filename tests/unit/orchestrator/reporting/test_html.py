"""Pages from templates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from orchestrator.reporting.html import card, page, render, table


def test_a_value_that_a_template_asks_for_and_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("page.html", heading="x", sub="y", title="")


def test_text_is_escaped_in_every_part() -> None:
    hostile = "<script>'&\""
    parts = card(hostile, hostile), table([hostile], [[hostile]])
    made = page(hostile, hostile, parts, hostile)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 7


def test_numbers_stand_on_the_right_and_long_headings_break_at_their_dots() -> None:
    made = table(["heldout.own_loss"], [["1,234.50"], ["-3.5%"], ["v1"]])
    assert "<th class=n>heldout.<wbr>own_loss" in made
    assert made.count("<td class=n>") == 2


def test_what_was_before_and_after_and_what_is_not_known_stand_below_numbers() -> None:
    made = table(["figure", "value"], [["a → b", "0.5% → +1.0%"], ["-", "–"], ["", ""]])
    assert "<th>figure" in made
    assert "<th class=n>value" in made
    assert made.count("<td class=n>") == 2


def test_a_table_without_headings_has_no_row_for_them() -> None:
    made = table(["", ""], iter([["steps", "30"]]))
    assert "<th" not in made
    assert "<td>30" in made


def test_a_package_has_templates_of_its_own_that_extend_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "other_pages" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text('"""Pages."""')
    (folder / "mine.html").write_text(
        '{% extends "page.html" %}{% block body %}{{ parts.card("1", what) }}{% endblock %}'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    values = {"heading": "h", "sub": "s", "title": ""}
    made = render("mine.html", "other_pages", what="<b>", **values)
    sys.modules.pop("other_pages")
    assert "<b>1</b><span>&lt;b&gt;</span>" in made
