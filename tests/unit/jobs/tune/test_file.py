"""The searches that are shipped; what can be wrong with one is tested with `search_spec`."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.wire import ConfigError
from jobs.tune.file import load_search

SHIPPED = Path(__file__).parents[4] / "jobs" / "configs" / "search.yaml"


def test_the_shipped_search_tries_the_shipped_weights_first() -> None:
    found = load_search(str(SHIPPED))
    assert found.base_point is not None
    assert found.config(found.base_point) == found.base
    assert found.spec.space.keys() | {c.derived for c in found.spec.sums} >= {
        f"losses.{name}" for name in ("own", "help", "recall", "self", "sync", "balance", "assist")
    }


def test_the_command_line_sets_the_searchs_own_keys_only() -> None:
    assert load_search(str(SHIPPED), ["trials=3"]).num_trials == 3
    with pytest.raises(ConfigError, match=r"unknown key intervals"):
        load_search(str(SHIPPED), ["intervals=3"])


def test_a_search_and_its_base_may_lie_in_a_folder_whose_name_could_be_a_pattern(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "proj [v1]::x"
    (tmp_path / "proj v::x").mkdir()  # what the name would stand for as a pattern
    folder.mkdir()
    for name in (SHIPPED.name, "quickstart.yaml"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + SHIPPED.with_name(name).read_bytes())
    found = load_search(f"{folder}/search.yaml")
    assert found.base.corpus.paths[0] == f"{tmp_path}/corpora/world/facts.jsonl"  # ../corpora
