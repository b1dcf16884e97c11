"""The page docs/config.md, and how types and defaults are put in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings.fields import settings_of
from orchestrator.settings.config import Config
from orchestrator.settings.reference import default_in_words, reference, type_in_words

PAGE = Path(__file__).parents[4] / "docs" / "config.md"
FIELDS = {setting.key: setting.field for setting in settings_of(Config, entries=True)}


def test_the_page_is_what_the_fields_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_field_has_one_row() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(FIELDS)
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


def test_every_section_has_one_table() -> None:
    titles = [line for line in reference().splitlines() if line.startswith("## ")]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("key", "kind", "default"),
    [
        ("seed", "integer ≥ 0, < 2147483648", "`0`"),
        ("data.optimizer.lr", "number > 0", "`0.002` \\*"),
        ("data.optimizer.betas", "list of 2 numbers", "`[0.9, 0.98]`"),
        ("corpus.kind", "`text`, `facts`", "`text`"),
        ("corpus.relations", "list of texts", "unset"),
        ("corpus.sources", "list of sections", "`[]`"),
        ("corpus.sources.*.paths", "list of texts", "required"),
        ("data.layer.fields", "keys and values", "`{}`"),
        ("data.layer.compile", "true or false", "`false`"),
        ("ray.num_cpus", "integer ≥ 1", "unset"),
        ("profile", "text", "`''`"),
    ],
)
def test_types_and_defaults_in_words(key: str, kind: str, default: str) -> None:
    assert (type_in_words(FIELDS[key]), default_in_words(FIELDS[key])) == (kind, default)
