from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from jobs.tune.importance import Importance
from jobs.tune.plots import fronts, importance_plot, learning_curves, parallel
from jobs.tune.results import FINISHED, STOPPED, TrialResult, pareto_front
from jobs.tune.space import Domain, Objective

GOALS = [Objective("heldout.a", "min"), Objective("heldout.b", "max"), Objective("c", "min")]
SPACE = {"x": Domain(loguniform=(0.1, 10.0)), "y": Domain(choice=["p", "q"])}


def trials() -> list[TrialResult]:
    found = []
    for n in range(6):
        figures = {"heldout.a": 1.0 + n, "heldout.b": n / 10}
        point = {"x": 0.1 * 2**n, "y": "pq"[n % 2]}
        history = tuple({**figures, "interval": i} for i in (1, 2))
        state = STOPPED if n % 3 == 2 else FINISHED
        found.append(TrialResult(n, point, point, state, figures, 2, history))
    return found


def drawn(svg: str) -> int:
    """Markers and lines of the plot itself."""
    return len(re.findall(r"<use |<path ", svg))


def marks(svg: str) -> int:
    """Points that were scattered, without the legend's; one alone is drawn without a `use`."""
    (axes,) = [g for g in ElementTree.fromstring(svg).iter() if g.get("id") == "axes_1"]
    scattered = [g for g in axes if g.get("id", "").startswith("PathCollection")]
    return sum(sum(e.tag.endswith("use") for e in g.iter()) or 1 for g in scattered)


@pytest.mark.parametrize(("num_goals", "num_plots"), [(1, 1), (2, 1), (3, 3)])
def test_every_pair_of_objectives_has_its_plot(num_goals: int, num_plots: int) -> None:
    goals = GOALS[:num_goals]
    plots = fronts(trials(), pareto_front(trials(), goals), goals)
    assert len(plots) == num_plots
    assert all(svg.startswith("<svg") for svg in plots)


def test_every_trial_that_ended_is_one_mark() -> None:
    for count in (2, 4, 6):
        some = trials()[:count]
        svg = fronts(some, pareto_front(some, GOALS[:2]), GOALS[:2])[0]
        assert marks(svg) == count


def test_nothing_tried_draws_empty_axes() -> None:
    assert fronts([], [], GOALS[:1])[0].startswith("<svg")
    assert learning_curves([], [], GOALS[:1])[0].startswith("<svg")


def test_parallel_coordinates_draw_a_line_per_trial() -> None:
    few, many = (
        parallel(some, SPACE, ["x", "y"], ["heldout.a", "heldout.b"])
        for some in (trials()[:2], trials())
    )
    assert drawn(many) - drawn(few) >= 4


def test_a_figure_that_a_trial_lacks_leaves_a_gap() -> None:
    assert parallel(trials(), SPACE, ["x"], ["heldout.a", "c"]).startswith("<svg")


def test_importances_have_bars_intervals_and_the_mark_of_chance() -> None:
    one = Importance("x", 0.6, 0.4, 0.8, 0.3)
    two = [one, Importance("y", 0.1, 0.0, 0.3, 0.3)]
    assert drawn(importance_plot(two, "a")) > drawn(importance_plot([one], "a"))
