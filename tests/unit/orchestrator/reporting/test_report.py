from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from actors.wire import Answer
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.reporting.report import render_report
from tests.unit.orchestrator.scripted import an_evaluation, finish, kept_model

LOADING = {"src", "href", "xlink:href", "data", "srcset", "poster", "action"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.styles = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.styles += data
        else:
            self.text += data


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plot in place of the real dozen, which take seconds to draw."""
    monkeypatch.setattr("orchestrator.reporting.report.all_plots", lambda metrics: ["<svg></svg>"])


def answers(*prompts: str) -> tuple[Answer, ...]:
    return tuple(Answer(p, f"E{i}", f"O{i}", f"H{i}", f"M{i}") for i, p in enumerate(prompts))


def page(**changes: object) -> Page:
    run = finish(an_evaluation(2, 3, **changes))
    return Page(render_report(run.config, run.summary(), run.metrics))


def test_the_page_loads_nothing_from_anywhere() -> None:
    found = page()
    targets = [
        value or ""
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in LOADING
    ]
    assert [t for t in targets if not t.startswith(("#", "data:"))] == []
    assert "script" not in [tag for tag, _ in found.tags]
    assert not re.search(r"@import|url\((?!['\"]?(#|data:))", found.styles)


@pytest.mark.usefixtures("drawn")
def test_every_figure_stands_beside_what_it_was_before_training() -> None:
    text = page(figures={"own_loss": 1.25}).text
    assert "before training (32 windows, 40 questions)" in text
    assert "own_loss2.00001.2500" in text


@pytest.mark.usefixtures("drawn")
def test_without_an_evaluation_of_version_0_there_is_no_column_for_it() -> None:
    run = finish()
    del run.metrics.evaluations[0]
    assert "before training" not in Page(render_report(run.config, run.summary(), run.metrics)).text


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("after", "verdict"), [(0.625, "yes"), (0.496, "hardly"), (0.1, "no")])
def test_the_card_says_whether_the_memory_reflects_and_how_far_it_agrees(
    after: float, verdict: str
) -> None:
    run = finish(after=after)
    text = Page(render_report(run.config, run.summary(), run.metrics)).text
    assert f"{verdict}memory reflects the final version (agreement {after:.1%})" in text


@pytest.mark.usefixtures("drawn")
def test_the_card_says_that_a_model_stayed_as_it_is(tmp_path: Path) -> None:
    run = finish(after=0.1, **kept_model(tmp_path))
    text = Page(render_report(run.config, run.summary(), run.metrics)).text
    assert "unchangedthe model alone" in text
    assert "the model alone stays as it is" in text


@pytest.mark.usefixtures("drawn")
def test_an_answer_that_goes_on_after_a_comma_is_marked_as_right() -> None:
    given = (Answer("The capital of France is", "Paris", "Paris, on the Seine", "Parisian", "x"),)
    tags = page(answers=given).tags
    right = [attributes for tag, attributes in tags if attributes.get("class") == "right"]
    assert len(right) == 1


@pytest.mark.usefixtures("drawn")
def test_every_question_stands_there_with_what_is_expected_and_what_each_voice_says() -> None:
    text = page(answers=answers("The capital of A is", "The river of B is")).text
    for word in ("The capital of A is", "The river of B is"):
        assert word in text
    for voice in "EOHM":
        assert f"{voice}0" in text
        assert f"{voice}1" in text


@pytest.mark.usefixtures("drawn")
def test_text_of_the_corpus_can_not_become_html() -> None:
    found = page(answers=answers("<script>alert('1')</script> & <b id=x>"))
    assert "script" not in [tag for tag, _ in found.tags]
    assert "<script>alert('1')</script> & <b id=x>" in found.text


@pytest.mark.usefixtures("drawn")
def test_an_answer_that_is_right_is_marked_and_a_wrong_one_is_not() -> None:
    found = page(answers=(Answer("Q", "Rome or Roma", "Roma.", "Rom", "Rome"),))
    marked = [tag for tag, attributes in found.tags if attributes.get("class") == "right"]
    assert marked == ["td", "td"]


@pytest.mark.usefixtures("drawn")
def test_a_text_corpus_has_no_accuracy_but_all_held_out_figures() -> None:
    text = page(accuracy={}, accuracy_seen={}, num_probes=0).text
    assert "accuracy" not in text
    assert "slots_top1pct_share" in text


def test_every_plot_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    plots = ["<svg id=a></svg>", "<svg id=b></svg>"]
    monkeypatch.setattr("orchestrator.reporting.report.all_plots", lambda metrics: plots)
    assert [attributes["id"] for tag, attributes in page().tags if tag == "svg"] == ["a", "b"]


@pytest.mark.usefixtures("drawn")
def test_the_config_is_on_the_page() -> None:
    run = finish()
    assert run.config.to_yaml() in Page(render_report(run.config, run.summary(), run.metrics)).text


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("share", "alarmed"), [(0.19, False), (0.21, True)])
def test_hub_slots_raise_an_alarm(share: float, alarmed: bool) -> None:
    figures = {**an_evaluation(2, 3).figures, "slots_top1pct_share": share}
    assert ("alarm above" in page(figures=figures).text) is alarmed


@pytest.mark.usefixtures("drawn")
def test_a_page_says_that_the_memory_does_not_reflect_the_final_version() -> None:
    run = finish(after=0.1)
    found = Page(render_report(run.config, run.summary(), run.metrics))
    assert "card bad" in [attributes.get("class") for _, attributes in found.tags]
    assert "not within 0.01" in found.text


@pytest.mark.usefixtures("drawn")
def test_figures_that_are_not_finite_do_not_stop_the_report() -> None:
    figures = dict.fromkeys(an_evaluation(2, 3).figures, math.nan)
    assert "help_gain" in page(figures=figures).text


@pytest.mark.usefixtures("drawn")
def test_what_failed_and_came_back_is_a_table_only_where_something_did() -> None:
    run = finish()
    quiet = render_report(run.config, run.summary(), run.metrics)
    assert "Failures and restarts" not in quiet
    run.metrics.add_failure(Failure("data", 1, 7, "rank 1 <died>", 0, 3))
    run.metrics.add_recovery("data", 3.5, 2.0)
    run.metrics.add_failure(Failure("memory", 0, 9, "it hung", 0, 1))
    text = Page(render_report(run.config, run.summary(), run.metrics)).text
    assert "Failures and restarts" in text
    assert "rank 1 <died>3.500032.0000" in text
    assert "it hung–1–" in text


def test_what_was_resized_is_a_table_only_where_something_was() -> None:
    run = finish()
    quiet = render_report(run.config, run.summary(), run.metrics)
    assert "Resizes" not in quiet
    run.metrics.add_resize(Resize("memory", 2, 1, 4, 3.0, 0.25))
    text = Page(render_report(run.config, run.summary(), run.metrics)).text
    assert "Resizes" in text
    assert "0.2500" in text


def test_text_of_data_models_and_errors_is_no_part_of_the_page() -> None:
    hostile = "<script>x</script> [INST] <i> & \"'"
    run = finish(an_evaluation(2, 3, answers=(Answer(*[hostile] * 5),)))
    summary = run.summary() | {"reflects_final_reason": hostile}
    failure = {"at_s": 1.0, "group": hostile, "rank": 0, "interval": 1, "cause": hostile,
               "replayed": 1}  # fmt: skip
    summary["restarts"] = [failure]
    config = run.config.model_copy(update={"name": hostile})
    found = Page(render_report(config, summary, run.metrics))
    assert not {"script", "i"} & {tag for tag, _ in found.tags}
    assert found.text.count(hostile) >= 5 + 1 + 2 + 1


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("help_loss", "is_bad"), [(4.05, False), (4.5, True)])
def test_general_text_has_a_card_that_says_what_the_run_cost(
    help_loss: float, is_bad: bool
) -> None:
    general = {"general_own_loss": 4.0, "general_help_loss": help_loss, "general_mixing": 0.1}
    run = finish(an_evaluation(2, 3, figures=an_evaluation(2, 3).figures | general))
    start = run.metrics.evaluations[0]
    run.metrics.evaluations[0] = start | {"heldout.general_own_loss": 4.0}
    html = render_report(run.config, run.summary(), run.metrics)
    found = Page(html)
    cost = help_loss - 4.0
    assert f"general text, with memory, nats per token; {cost:+.3f} by the run" in found.text
    bad = [
        attributes for _, attributes in found.tags if ("class", "card bad") in attributes.items()
    ]
    assert bool(bad) is is_bad
