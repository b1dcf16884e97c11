from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.tune.report import render_search_report
from jobs.tune.results import FAILED, FINISHED, STOPPED, Exploit, TrialResult, pareto_front
from jobs.tune.search import Search
from tests.unit.jobs.tune.test_search import search
from tests.unit.orchestrator.reporting.test_report import Page

SPACE = {
    "losses.own": {"uniform": [0.2, 0.9]},
    "losses.recall": {"loguniform": [0.1, 2.0]},
    "data.batch_size": {"choice": [2, 4]},
}
TWO = ["min heldout.help_loss", "max heldout.recall_agreement"]


def trials(found: Search, count: int = 12) -> list[TrialResult]:
    results = []
    for number in range(count):
        point = {"losses.own": 0.2 + 0.05 * number, "losses.recall": 0.1 * (number + 1),
                 "data.batch_size": 2 + 2 * (number % 2)}  # fmt: skip
        figures = {"heldout.help_loss": 2.0 - 0.1 * number, "heldout.recall_agreement": 0.1}
        last = 8 if number % 2 else 2
        rows = tuple({**figures, "interval": i} for i in (2, 4, 6, 8) if i <= last)
        state = FINISHED if number % 2 else STOPPED
        results.append(TrialResult(number, point, found.values(point), state, figures, last, rows))
    return results


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
def test_the_page_shows_everything_and_needs_nothing_else(
    tmp_path: Path, objectives: list[str]
) -> None:
    found = search(tmp_path, space=SPACE, objectives=objectives)
    results = trials(found)
    results.append(TrialResult(12, results[0].point, results[0].values, FAILED, error="no <luck>",
                               moves=(Exploit(2, 1, {}),)))  # fmt: skip
    page = render_search_report(found, results, pareto_front(results, found.spec.goals))
    for heading in ("Learning curves", "Settings and figures", "Importance", "All trials"):
        assert f"<h2>{heading}</h2>" in page
    assert ("The Pareto front" in page) is (len(objectives) > 1)
    assert page.count("<svg") >= 4
    assert "no &lt;luck&gt;" in page
    assert "from 001 at 2" in page
    assert not re.search(r"(src|href)=['\"]?https?:", page)


def test_spread_over_seeds_stands_beside_the_mean(tmp_path: Path) -> None:
    found = search(tmp_path, space=SPACE, objectives=TWO[:1], seeds=3, scheduler="none")
    (one,) = trials(found, 1)
    figures = {"heldout.help_loss": 1.5, "spread.heldout.help_loss": 0.25}
    result = TrialResult(0, one.point, one.values, FINISHED, figures, 8)
    page = render_search_report(found, [result], [result])
    assert "1.5 ± 0.25" in page


def test_a_search_in_which_nothing_came_to_anything_has_a_page_too(tmp_path: Path) -> None:
    found = search(tmp_path, objectives=TWO)
    failed = TrialResult(0, {"losses.own": 0.5}, {"losses.own": 0.5}, FAILED, error="broken")
    assert "broken" in render_search_report(found, [failed], [])


def test_settings_and_causes_are_shown_as_they_are(tmp_path: Path) -> None:
    hostile = ["$\\frac{ <i>[red]$", "<script>x</script>"]
    space = {"losses.own": SPACE["losses.own"], "corpus.paths": {"choice": [[h] for h in hostile]}}
    found = search(tmp_path, space=space, objectives=TWO)
    results = []
    for one, paths in zip(trials(found, 12), [*found.spec.space["corpus.paths"].ends] * 6,
                          strict=True):  # fmt: skip
        point = {"losses.own": one.point["losses.own"], "corpus.paths": paths}
        results.append(replace(one, point=point, values=point, error=f"<u>{paths}"))
    html = render_search_report(found, results, pareto_front(results, found.spec.goals))
    page = Page(html)
    assert not {"script", "i", "u"} & {tag for tag, _ in page.tags}
    for path in hostile:
        assert path in page.text
