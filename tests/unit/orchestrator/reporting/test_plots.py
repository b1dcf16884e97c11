from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from actors.settings.run import DATA, MEMORY, LossWeights
from orchestrator.reporting.plots import all_plots, draw, teaching_plots
from orchestrator.run_dir.metrics import Metrics
from tests.unit.orchestrator.scripted import a_report, an_evaluation, finish


def test_a_plot_is_one_well_formed_svg_element() -> None:
    svg = draw(lambda axes: axes.plot([0, 1], [0, 1]), "title", "x", "y")
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def plots() -> list[str]:
    """All plots of a run with facts."""
    return all_plots(finish().metrics)


def test_all_plots_of_a_run_are_well_formed(plots: list[str]) -> None:
    for svg in plots:
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("series", ["own", "help", "self", "recall", "agreement"])
def test_every_loss_of_the_run_is_drawn_under_its_name(plots: list[str], series: str) -> None:
    assert any(f"<!-- {series} -->" in svg for svg in plots)  # matplotlib's comment on a text


def test_every_loss_that_has_a_weight_is_drawn_in_a_look_of_its_own() -> None:
    names = [name for name in LossWeights.names() if name != "balance"]
    metrics = Metrics(0.0)
    for interval in (1, 2):
        values = dict.fromkeys(LossWeights.names(), 1.0)
        metrics.add_interval([a_report(MEMORY, interval, metrics=values)], 0.0, 1)
    (drawn,) = (svg for svg in all_plots(metrics) if "<!-- Memory group, training -->" in svg)
    assert [name for name in names if f"<!-- {name} -->" not in drawn] == []
    assert "<!-- balance -->" not in drawn
    assert len(names) > 4
    legend = drawn[drawn.index('<g id="legend_1">') :]
    looks = re.findall(r'<path d="M [^"]*"\s+style="([^"]*)"', legend)
    assert len({look for look in looks if "stroke-width: 1.4" in look}) == len(names)


def test_a_group_that_does_not_train_has_no_plot_of_its_losses() -> None:
    metrics = Metrics(0.0)
    metrics.add_interval([a_report(DATA, 1, metrics={"lessons": 1.0})], 0.0, 1)
    metrics.add_interval([a_report(MEMORY, 1, metrics={})], 0.0, 1)
    titles = [f"<!-- {name} group, training -->" for name in ("Data", "Memory")]
    drawn = teaching_plots(metrics)
    assert [any(title in svg for svg in drawn) for title in titles] == [True, False]


def test_a_plot_draws_what_it_is_given() -> None:
    def num_paths(values: list[float]) -> int:
        return draw(lambda a: a.scatter(range(len(values)), values), "", "", "").count("<use")

    assert num_paths([1.0, 2.0, 3.0]) > num_paths([1.0])


def test_a_corpus_without_probes_has_one_plot_less(plots: list[str]) -> None:
    metrics = finish(an_evaluation(2, 3, accuracy={}, accuracy_seen={})).metrics
    del metrics.evaluations[:2]
    assert len(all_plots(metrics)) == len(plots) - 1


def test_a_run_without_evaluations_has_the_plots_of_its_intervals(plots: list[str]) -> None:
    metrics = finish().metrics
    metrics.evaluations.clear()
    assert 0 < len(all_plots(metrics)) < len(plots)


def test_a_run_without_any_rows_can_be_plotted() -> None:
    assert all_plots(Metrics(0.0))


def test_a_run_in_which_no_probe_changed_can_be_plotted() -> None:
    metrics = Metrics(0.0)
    metrics.add_evaluation(
        an_evaluation(1, 1, reflection_changed=0, reflection_followed=0), final=True
    )
    assert all_plots(metrics)


def test_text_in_a_plot_is_drawn_as_it_is_dollars_and_brackets_too() -> None:
    hostile = "$\\frac{ <b>[red]"  # no formula, and would be a fault as one
    svg = draw(lambda axes: axes.text(0, 0, hostile, label=hostile), hostile, hostile, hostile)
    ElementTree.fromstring(svg)
    assert "<b>" not in svg
