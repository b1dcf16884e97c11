from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import DATA, MEMORY, LossWeights
from orchestrator.reporting.prometheus import QUANTITIES, Exporter, Figures, Record
from orchestrator.run_dir.metrics import Metrics
from orchestrator.settings.config import Config
from tests.unit.orchestrator.scripted import a_config, a_report, an_evaluation

DASHBOARD = Path(__file__).resolve().parents[4] / "docs" / "grafana" / "tandem.json"
PAGE = DASHBOARD.parents[1] / "monitoring.md"
UNITS = ("seconds", "bytes", "tokens", "ratio", "nats", "versions", "intervals")
COUNTS = ("interval", "version", "incarnation", "steps", "restarts")  # units of their own
Recorded = dict[tuple[str, ...], float]


def recorded() -> tuple[Recorded, Record]:
    """What was recorded, by name and label values, and what records it."""
    found: Recorded = {}

    def record(name: str, value: float, labels: dict[str, str]) -> None:
        found[name, *labels.values()] = value

    return found, record


def interval(config: Config, group: str = DATA, **changes: Any) -> Recorded:
    """What an interval of two ranks becomes."""
    found, record = recorded()
    reports = [a_report(group, 3, rank=rank, **changes) for rank in range(2)]
    row = Metrics(started_at=0.0).add_interval(reports, 2.5, 1)
    Figures(config, record).interval(reports, row)
    return found


def test_every_loss_that_has_a_weight_is_recorded_under_its_name() -> None:
    values = dict.fromkeys(LossWeights.names(), 1.0)
    found = interval(a_config(), MEMORY, metrics=values)
    terms = {key[-1] for key in found if key[0] == "tandem_train_loss_nats"}
    assert terms == set(values) - {"balance"}


def test_names_say_what_is_counted_in_which_unit() -> None:
    for quantity in QUANTITIES:
        bare = quantity.name.removesuffix("_total")
        assert re.fullmatch(r"tandem(_[a-z]+)+", bare), quantity.name
        assert bare.rpartition("_")[2] in (*UNITS, *COUNTS), quantity.name


def test_each_quantity_is_labelled_with_its_run() -> None:
    assert {quantity.labels[0] for quantity in QUANTITIES} == {"run"}
    assert len({quantity.name for quantity in QUANTITIES}) == len(QUANTITIES)


def test_an_interval_says_what_each_rank_did() -> None:
    changes = {"published_bytes": 100, "adopted_bytes": 70, "metrics": {"mfu": 0.4}}
    found = interval(a_config(name="a", data={"steps_per_interval": 20}), **changes)
    for rank in "01":
        who = "a", DATA, rank
        assert found["tandem_step_seconds", *who] == pytest.approx(6.0 / 20)
        assert found["tandem_train_seconds_total", *who] == 6.0
        assert found["tandem_adopt_seconds_total", *who] == 0.5
        assert found["tandem_publish_seconds_total", *who] == 0.5
        assert found["tandem_tokens_total", *who] == 1000
        assert found["tandem_published_bytes_total", *who] == 100
        assert found["tandem_adopted_bytes_total", *who] == 70
        assert found["tandem_mfu_ratio", *who] == 0.4


def test_an_interval_says_where_its_group_is() -> None:
    found = interval(a_config(name="a"), published_bytes=100, incarnation=2)
    assert found["tandem_interval", "a", DATA] == 3
    assert found["tandem_version", "a", DATA] == 3
    assert found["tandem_adopted_version", "a", DATA] == 2
    assert found["tandem_lag_versions", "a", DATA] == 1
    assert found["tandem_incarnation", "a", DATA] == 2
    assert found["tandem_wait_seconds_total", "a", DATA] == 2.5
    assert found["tandem_train_loss_nats", "a", DATA, "own"] == 1.5


def test_an_interval_that_publishes_nothing_leaves_the_version_as_it_was() -> None:
    assert ("tandem_version", "run", DATA) not in interval(a_config())


def test_a_loss_that_is_no_number_is_left_out() -> None:
    found = interval(a_config(), MEMORY, metrics={"self": float("nan"), "recall": 1.0})
    assert [key for key in found if key[0] == "tandem_train_loss_nats"] == [
        ("tandem_train_loss_nats", "run", MEMORY, "recall")
    ]


def test_an_evaluation_says_what_was_held_out() -> None:
    found, record = recorded()
    row = Metrics().add_evaluation(an_evaluation(1, 1), final=False)
    Figures(a_config(name="a"), record).evaluation(row)
    assert found["tandem_heldout_loss_nats", "a", "own"] == 2.0
    assert found["tandem_heldout_loss_nats", "a", "recall"] == 0.3
    assert found["tandem_heldout_agreement_ratio", "a"] == 0.9
    assert found["tandem_accuracy_ratio", "a", "memory"] == 0.4


def test_a_recovery_and_a_checkpoint_are_told() -> None:
    found, record = recorded()
    exporter = Exporter(a_config(name="a"), lambda message: None, lambda: record)
    exporter.failure(MEMORY)
    exporter.recovery(MEMORY, 4.0, 2.0)
    exporter.checkpoint(10)
    exporter.close()
    assert found["tandem_planned_intervals", "a"] == 2
    assert found["tandem_restarts_total", "a", MEMORY] == 1
    assert found["tandem_restart_seconds_total", "a", MEMORY] == 4.0
    assert found["tandem_replay_seconds_total", "a", MEMORY] == 2.0
    assert found["tandem_checkpoint_interval", "a"] == 10


def test_recording_that_fails_is_one_warning_and_holds_nobody_up() -> None:
    warnings: list[str] = []

    def record(name: str, value: float, labels: dict[str, str]) -> None:
        raise OSError("no agent")

    exporter = Exporter(a_config(), warnings.append, lambda: record)
    for number in range(5):
        exporter.checkpoint(number)
    exporter.close()
    assert len(warnings) == 1
    assert "no agent" in warnings[0]
    assert "training goes on" in warnings[0]


def test_whoever_tells_the_exporter_does_not_wait_for_the_recording() -> None:
    may_record, found = threading.Event(), recorded()

    def slow() -> Record:
        may_record.wait(60)
        return found[1]

    exporter = Exporter(a_config(), lambda message: None, slow)
    exporter.checkpoint(1)
    assert found[0] == {}
    may_record.set()
    exporter.close()
    assert found[0]["tandem_checkpoint_interval", "run"] == 1


def test_the_dashboard_shows_every_quantity_and_none_that_is_not_there() -> None:
    named = set(re.findall(r"ray_tandem_\w+", DASHBOARD.read_text()))
    assert named == {quantity.exposed for quantity in QUANTITIES}


def test_the_dashboard_selects_by_labels_that_its_metrics_have() -> None:
    labels = {quantity.exposed: set(quantity.labels) for quantity in QUANTITIES}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for p in panels for target in p.get("targets", ())]
    assert len(expressions) > 20
    for expression in (e for e in expressions if "tandem" in e):
        parts = re.findall(r"by \(([^)]*)\) \(([^}]*})", expression)
        assert parts, expression
        for grouped, inner in parts:
            name = re.findall(r"ray_tandem_\w+", inner)[0]
            selected = set(re.findall(r"(\w+)=~?\"", inner))
            assert {part.strip() for part in grouped.split(",")} | selected <= labels[name]


def test_the_page_on_monitoring_names_every_quantity() -> None:
    text = PAGE.read_text()
    assert [q.name for q in QUANTITIES if f"`{q.name}`" not in text] == []
