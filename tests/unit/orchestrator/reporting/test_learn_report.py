"""The pages about what a run learned later."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.reporting.learn_report import change_table, forks_page, forks_rows, learned_page
from tests.unit.orchestrator.reporting.test_report import LOADING, Page


def marks(share: float, loss: float) -> dict[str, Any]:
    """An exam in which every figure can be told apart."""
    voices = {"own": share, "help": share + 0.01, "memory": share + 0.02}
    return {
        "heldout": {"own_loss": loss, "help_loss": loss + 0.1, "self_loss": loss + 0.2},
        "accuracy": {**voices, "baseline": 0.05},
        "accuracy_seen": {**{v: x + 0.1 for v, x in voices.items()}, "baseline": 0.06},
    }


def figures(share: float, loss: float) -> dict[str, Any]:
    """What one point of a fork's curve says."""
    heldout = {f"{v}_{name}": x + 0.01 * i for i, v in enumerate(("own", "help", "memory"))
               for name, x in (("loss", loss), ("tokens_right", share))}  # fmt: skip
    return {**heldout, **{k: marks(share, loss)[k] for k in ("accuracy", "accuracy_seen")}}


@pytest.fixture
def learned() -> dict[str, Any]:
    """What `tandem learn` prints."""
    both = {"before": marks(0.1, 3.0), "after": marks(0.6, 1.0)}
    curve = [{"step": s, "new": marks(0.1 + s / 10, 3 - s), "old": marks(0.5, 1.0)} for s in (0, 2)]
    return {
        "name": "x <b>", "how": "2 steps", "run": "runs/x", "corpus": ["new.jsonl"], "facts": None,
        "steps": 2, "lr": 0.1, "port": {"steps": 1, "lr": 0.01}, "old_data": 0.5,
        "old_from": "memory", "seed": 0, "new_tokens": 10, "old_tokens": 11,
        "rows_changed": 123, "num_rows": 456, "seconds": 7.0,
        "new": both, "old": copy.deepcopy(both), "curve": curve,
    }  # fmt: skip


@pytest.fixture
def forks() -> dict[str, Any]:
    """What `tandem evaluate --learn` prints."""
    curve = [{"step": s, **figures(0.1 * s, 3 - s)} for s in (0, 2)]
    both = {name: {"curve": curve, "reached": figures(share, loss)}
            for name, share, loss in (("without", 0.4, 1.5), ("with", 0.5, 1.25))}  # fmt: skip
    return {"name": "x", "how": "2 steps", "before": figures(0.1, 3.0), **both}


def test_a_table_of_changes_has_each_voice_before_and_after() -> None:
    heads, rows = change_table(marks(0.1, 3.0), marks(0.6, 1.0))
    assert len(heads) == 4
    assert rows[1] == ("with memory", "11.0% → 61.0%", "21.0% → 71.0%", "3.100 → 1.100")
    assert rows[3] == ("most frequent object", "5.0%", "6.0%", "")


def test_a_table_of_text_has_losses_alone() -> None:
    plain = {**marks(0.1, 3.0), "accuracy": {}, "accuracy_seen": {}}
    heads, rows = change_table(plain, plain)
    assert len(heads) == 2
    assert [len(row) for row in rows] == [2, 2, 2]


def test_a_table_of_forks_compares_the_data_layer_alone_with_both_together(
    forks: dict[str, Any],
) -> None:
    rows = {row[0]: row[1:] for row in forks_rows(forks)}
    assert rows["held-out loss, nats per token"] == ("3.0000", "1.5000", "1.2600")
    assert rows["held-out tokens right"] == ("10.0%", "40.0%", "51.0%")
    assert rows["answers, wordings held out"] == ("10.0%", "40.0%", "51.0%")


def test_pages_load_nothing_and_have_their_plots(
    learned: dict[str, Any], forks: dict[str, Any]
) -> None:
    for html, plots in ((learned_page(learned), 4), (forks_page(forks), 4)):
        page = Page(html)
        targets = [v or "" for _, found in page.tags for n, v in found.items() if n in LOADING]
        assert [t for t in targets if not t.startswith(("#", "data:"))] == []
        assert [tag for tag, _ in page.tags].count("svg") == plots


def test_a_page_says_what_was_learned_and_what_was_lost(
    learned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.reporting.learn_report.draw", lambda *given: "<svg></svg>"
    )  # slow
    page = Page(learned_page(learned))
    for said in ("11.0% → 61.0%", "123 of 456", "new.jsonl", "x <b>: what the memory learned"):
        assert said in page.text
    assert "x &lt;b&gt;" in learned_page(learned)


def test_a_page_writes_settings_as_people_do(
    learned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.reporting.learn_report.draw", lambda *given: "<svg></svg>"
    )  # slow
    facts = {"given": 3, "in_run": 0, "contradicting": 1}
    given = {"corpus": ["a.jsonl", "b.jsonl"], "lr": 0.35 * 0.04, "facts": facts}
    made = learned_page(learned | given)
    for said in ("a.jsonl, b.jsonl", "0.014", "given 3, in run 0, contradicting 1"):
        assert f"<td>{said}</td>" in made
