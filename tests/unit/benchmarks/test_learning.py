"""The arithmetic, the controls, the keys and one tiny cell per row of the learning benchmark."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from actors.training.data_trainer import DataTrainer
from benchmarks import learning_figures as figures
from benchmarks.cells import Cells, OutOfCellsError
from benchmarks.learning import (
    KEYS,
    changes_of,
    groups_of,
    lines,
    measure,
    table_of,
    tasks_of,
)
from benchmarks.learning_alone import MixedStream
from benchmarks.learning_controls import (
    LoraTrainer,
    MissingPeftError,
    SlotlessMemory,
    is_adapter,
    mixed_at,
    num_parameters,
    wider_spec,
)
from benchmarks.learning_data import check_folder, choose
from benchmarks.learning_drive import adopted_version
from benchmarks.learning_specs import ALONE, CHOICES, QUICK, TOGETHER, Sizes, together_spec
from benchmarks.learning_together import TogetherCells
from benchmarks.plots import VOICES, learning_figure
from benchmarks.reflect_data import MissingDataError
from benchmarks.small_specs import Layers, changed_spec
from tests.unit.actors.tiny import build_memory, numbered_lines

PATTERNS = [{"pattern": f"[X] {verb} in [Y].", "lemma": verb} for verb in ("lives", "is", "sits")]
TINY = Sizes(
    layers=Layers(width=16, head_width=4, dim=16, slots_side=32),
    num_relations=1,
    num_facts=12,
    intervals=3,
    data_steps=1,
    memory_steps=2,
    asked_every=1,
    compared_every=1,
    probes=6,
    windows=4,
    staleness=(1, 2),
    publish_every=(1, 2),
    old_facts=6,
    new_facts=6,
    base_intervals=1,
    learn_steps=2,
    learn_every=1,
    old_frac=0.25,
    full_rates=(1e-3,),
    lora_rates=(1e-3,),
)


def test_a_curve_is_averaged_with_its_neighbours() -> None:
    assert figures.smoothed([0.0, 3.0, 3.0, 0.0]) == [1.5, 2.0, 2.0, 1.5]


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        ([0.2, 0.4, 0.8], 0.6, 25.0),
        ([0.2, 0.4, 0.8], 0.1, 5.0),
        ([0.2, 0.8, 0.4], 0.8, 20.0),
        ([0.2, 0.4, 0.8], 0.9, None),
        ([0.0, 0.0, 0.0], 0.0, 10.0),
    ],
)
def test_a_target_is_reached_on_the_line_between_two_points(
    values: list[float], target: float, expected: float | None
) -> None:
    found = figures.reached_at([10.0, 20.0, 30.0], values, target)
    assert found == (None if expected is None else pytest.approx(expected))


def curve(accuracy: list[float], memory: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "data_tokens": 100 * i,
            "memory_tokens": 200 * i if memory else 0,
            "data_cpu_s": 2.0 * i,
            "memory_cpu_s": 1.0 * i if memory else 0.0,
            "own": value,
            "help": value,
        }
        for i, value in enumerate(accuracy, start=1)
    ]


def test_the_ratios_count_what_each_group_spent_until_the_controls_end() -> None:
    plain = curve([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    pair = curve([0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], memory=True)
    found = figures.help_ratios(pair, plain, "help")
    assert found["tokens_ratio"] == pytest.approx(4 / 7)
    assert found["all_tokens_ratio"] == pytest.approx(3 * 4 / 7)
    assert found["core_seconds_ratio"] == pytest.approx(1.5 * 4 / 7)


def test_who_never_gets_there_has_no_ratio() -> None:
    found = figures.help_ratios(curve([0.1, 0.2, 0.3]), curve([0.4, 0.5, 0.6]), "help")
    assert found == dict.fromkeys(("tokens_ratio", "all_tokens_ratio", "core_seconds_ratio"))


def test_the_gain_is_per_position_and_its_interval_over_windows() -> None:
    same = [{"gain": 0.2, "num": 3}, {"gain": 0.2, "num": 3}]
    assert figures.gain_low(same) == pytest.approx(0.2)
    unlike = [{"gain": 0.3, "num": 1}, {"gain": 0.1, "num": 3}]
    per_window = [0.3 * 2 / 4, 0.1 * 3 * 2 / 4]
    assert sum(per_window) / 2 == pytest.approx(0.15)
    assert figures.gain_low(unlike) == pytest.approx(0.15)
    assert figures.gain_low([{"gain": 0.3, "num": 1}, {"gain": 0.1, "num": 1}]) < 0.1


def test_the_ceiling_is_the_best_of_all_and_steps_count_to_most_of_it() -> None:
    curves = [
        [
            {"steps": 10, "cpu_s": 1.0, "new_seen": 0.5},
            {"steps": 20, "cpu_s": 2.0, "new_seen": 1.0},
        ],
        [
            {"steps": 10, "cpu_s": 4.0, "new_seen": 0.4},
            {"steps": 20, "cpu_s": 8.0, "new_seen": 0.8},
        ],
    ]
    highest = figures.ceiling(curves)
    assert highest == 1.0
    assert figures.until_ceiling(curves[0], highest)["steps"] == pytest.approx(19.0)
    assert figures.until_ceiling(curves[0], highest)["seconds"] == pytest.approx(1.9)
    assert figures.until_ceiling(curves[1], highest) == {"steps": None, "seconds": None}


def known(text: float, facts: float, seen: float, unseen: float) -> dict[str, float]:
    return {"text_loss": text, "old_loss": facts, "old_seen": seen, "old_unseen": unseen}


def test_what_is_forgotten_is_the_mean_of_text_and_facts() -> None:
    cell = {"before": known(2.0, 1.0, 0.9, 0.8), "after": known(2.1, 1.5, 0.6, 0.7)}
    found = figures.forgotten(cell)
    assert found["nats"] == pytest.approx(0.3)
    assert (found["text"], found["facts"]) == (pytest.approx(0.1), pytest.approx(0.5))
    assert (found["lost_seen"], found["lost_unseen"]) == (pytest.approx(0.3), pytest.approx(0.1))


def test_what_is_gained_on_text_does_not_make_up_for_what_is_lost_on_facts() -> None:
    cell = {"before": known(2.0, 1.0, 0.9, 0.8), "after": known(1.0, 1.4, 0.9, 0.8)}
    assert figures.forgotten(cell)["nats"] == pytest.approx(0.2)


def test_there_is_no_ratio_to_a_lora_that_forgets_nothing() -> None:
    assert figures.forgetting_over(0.01, 0.049) is None
    assert figures.forgetting_over(0.01, 0.05) == pytest.approx(0.2)


def test_accuracy_counts_above_the_baseline() -> None:
    assert figures.above_baseline_ratio(0.5, 0.4, 0.3) == pytest.approx(2.0)
    assert figures.above_baseline_ratio(0.5, 0.3, 0.3) is None


def test_the_best_rate_is_that_of_the_unseen_wordings() -> None:
    ends = {"a": (0.2, 0.9), "b": (0.4, 0.1), "c": (0.4, 0.2)}
    cells = {n: {"after": {"new_unseen": u, "new_seen": s}} for n, (u, s) in ends.items()}
    assert figures.best(cells) == "c"


def test_a_figure_that_a_seed_lacks_has_no_mean() -> None:
    table = table_of([{"a": 1.0, "b": None}, {"a": 2.0, "b": 1.0}])
    assert table["a"]["mean"] == 1.5
    assert table_of([{"a": 1.0}])["a"]["half_95"] is None
    assert table["b"] == {"mean": None, "half_95": None, "seeds": 1}


def test_over_seeds_the_low_end_is_that_of_the_seeds() -> None:
    rows = [{"help_gain": gain, "help_gain_low": -9.0} for gain in (0.1, 0.2)]
    table = table_of(rows)
    assert table["help_gain_low"]["mean"] == pytest.approx(0.15 - 12.706205 * 0.05, abs=1e-6)
    assert table_of(rows[:1])["help_gain_low"]["mean"] == -9.0


@pytest.mark.parametrize(
    ("interval", "staleness", "every", "version"),
    [
        (1, 1, 1, 0),
        (5, 1, 1, 4),
        (5, 4, 1, 1),
        (3, 8, 1, 0),
        (5, 1, 4, 4),
        (4, 1, 4, 0),
        (9, 1, 4, 8),
    ],
)
def test_an_interval_adopts_what_is_published_and_old_enough(
    interval: int, staleness: int, every: int, version: int
) -> None:
    assert adopted_version(interval, staleness, every) == version


def test_a_memory_without_slots_is_as_big_and_reads_the_encoding_alone() -> None:
    memory = build_memory()
    slotless = SlotlessMemory(memory.spec, memory.vocab_rows, memory.num_tokens)
    assert num_parameters(slotless) == pytest.approx(num_parameters(memory), rel=0.05)
    u_ND = torch.randn(3, memory.spec.dim)
    before = slotless.read_at(u_ND).y
    with torch.no_grad():
        slotless.values.normal_()
        slotless.keys.normal_()
    assert torch.equal(slotless.read_at(u_ND).y, before)
    assert not torch.equal(slotless.read_at(2 * u_ND).y, before)


def test_a_wider_layer_has_just_as_many_parameters(tmp_path: Path) -> None:
    spec = together_spec(QUICK, tmp_path, 0)
    wide = wider_spec(spec, 1000, 400_000).data.layer.fields["hidden_size"]
    assert 1000 * wide + 26 * wide**2 >= 400_000 > 1000 * (wide - 8) + 26 * (wide - 8) ** 2


def test_an_ensemble_has_a_fixed_lambda_for_a_while(cells: TogetherCells) -> None:
    trainer = DataTrainer(cells.spec, cells.tokenizer.to_json(), "r")
    port, before = trainer.layer.port, trainer.layer.port.mix.bias.clone()
    with mixed_at(port, 0.25):
        assert torch.sigmoid(port.mix.bias).item() == pytest.approx(0.25)
    assert torch.equal(port.mix.bias, before)


def test_adapters_alone_learn_and_change_nothing_at_first(cells: TogetherCells) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft, which is not installed")
    spec = changed_spec(cells.spec, {"losses.help": 0.0})
    trainer = LoraTrainer(spec, cells.tokenizer.to_json(), "r")
    tokens_BT = torch.arange(8)[None]
    segments_BT = torch.zeros_like(tokens_BT)
    plain = trainer.layer(tokens_BT, segments_BT).logits_BTV
    trainer.put_adapters()
    assert torch.equal(trainer.layer(tokens_BT, segments_BT).logits_BTV, plain)
    before = {name: value.clone() for name, value in trainer.layer.named_parameters()}
    trainer.train_step()
    changed = {
        n for n, value in trainer.layer.named_parameters() if not torch.equal(value, before[n])
    }
    assert changed
    assert all(is_adapter(name) for name in changed)


def test_without_peft_the_rest_is_measured_and_it_is_said(
    folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise MissingPeftError("LoRA needs `peft`")

    monkeypatch.setattr(LoraTrainer, "put_adapters", missing)
    sizes = replace(TINY, lora_rates=(2e-3,))
    result = measure(groups_of(Cells(kept), sizes, folder, [0], {}), ["forget"])
    assert result["missing"] == ["LoRA needs `peft`"]
    assert result["forgetting_over_lora"] is None
    assert math.isfinite(result["table"]["forgotten_nats_full"]["mean"])


def test_every_size_is_in_a_key_or_says_which_cells_there_are() -> None:
    names = {field.name for field in fields(Sizes)}
    assert names == {*TOGETHER, *ALONE, *CHOICES}
    assert not {*CHOICES} & {*TOGETHER, *ALONE}


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"sizes": replace(TINY, probes=5)},
        {"changes": {"losses.balance": 0.5}},
        {"data": "other"},
    ],
)
def test_a_pair_that_depends_on_something_else_is_another_cell(
    folder: Path, tmp_path: Path, cells: TogetherCells, other: dict[str, Any]
) -> None:
    if "data" in other:
        shutil.copytree(folder, tmp_path / "data")
        with (tmp_path / "data/text/Middlemarch_145.txt").open("a") as text:
            text.write("one more line")
        other = {"data": tmp_path / "data"}
    cells.pair()
    with pytest.raises(OutOfCellsError):
        replace(cells, cells=Cells(cells.cells.folder, allowed=0), **other).pair()


def test_cells_of_two_rates_are_two_files(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    for rate in (0.001, 0.003):
        cells.get(f"full-{rate:g}", {"rate": rate}, lambda _, rate=rate: {"rate": rate})
    assert cells.get("full-0.001", {"rate": 0.001}, lambda _: {})["rate"] == 0.001
    assert len(list(tmp_path.glob("*.done"))) == 2


class Numbers:
    """A stream of windows that all hold one number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def next_batch(self, num: int) -> tuple[Any, list[Any]]:
        from actors.corpus.windows import Windows

        rows = np.full((num, 4), self.number, np.int32)
        return Windows(rows, rows, rows > 0), []


def test_a_mixed_batch_has_its_share_of_the_old() -> None:
    stream = MixedStream(Numbers(1), Numbers(2), 0.25)  # type: ignore[arg-type]
    windows, _ = stream.next_batch(8)
    assert windows.tokens_NT[:, 0].tolist() == [1] * 6 + [2] * 2


def test_changes_are_read_as_json() -> None:
    assert changes_of(["losses.balance=0.5", "mix.fresh=1"]) == {
        "losses.balance": 0.5,
        "mix.fresh": 1,
    }


def write_data(folder: Path) -> Path:
    """A data folder of fourteen facts and a text."""
    rows = [
        {"relation": "P", "subject": f"s{i}", "object": ("Rome", "Bonn")[i % 2]} for i in range(14)
    ]
    rows += [{"relation": "P", "subject": "two", "object": o} for o in ("Rome", "Bonn")]
    rows += [{"relation": "P", "subject": "Bonn Hall", "object": "Bonn"}]
    (folder / "pararel").mkdir()
    (folder / "pararel/facts.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "pararel/templates.json").write_text(json.dumps({"P": PATTERNS}))
    (folder / "text").mkdir()
    text = "\n".join(numbered_lines(1500))
    (folder / "text/Middlemarch_145.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture
def cells(folder: Path, kept: Path) -> TogetherCells:
    return TogetherCells(Cells(kept), TINY, folder, 0, {})


def test_facts_with_two_answers_or_the_answer_inside_are_left_out(folder: Path) -> None:
    chosen = choose(folder, 0, 1, 14)
    assert sorted(fact.subject for fact in chosen) == sorted(f"s{i}" for i in range(14))
    with pytest.raises(MissingDataError, match="only 0 relations have 15 facts"):
        choose(folder, 0, 1, 15)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"pararel/facts.jsonl is missing"):
        check_folder(tmp_path)


ROW_FIGURES = {
    "help": "accuracy_help",
    "loss": "help_gain",
    "alone": "new_fact_accuracy",
    "forget": "forgotten_nats_help",
    "joint": "joint_gap",
    "stale": "stale_2_1_help_loss",
}
NEEDS_PEFT = {"alone", "forget"}


@pytest.mark.parametrize("row", ROW_FIGURES)
def test_a_row_has_its_figures_and_is_computed_once(folder: Path, kept: Path, row: str) -> None:
    first = measure(groups_of(Cells(kept), TINY, folder, [0], {}), [row])
    lora_cells = [] if importlib.util.find_spec("peft") else ["lora"]
    cells = Cells(kept, allowed=len(lora_cells))
    again = measure(groups_of(cells, TINY, folder, [0], {}), [row])
    assert first == again
    value = first["table"][ROW_FIGURES[row]]["mean"]
    assert math.isfinite(value)
    assert set(KEYS) < set(first)
    assert any(ROW_FIGURES[row] in line for line in lines(first))


def test_curves_are_drawn_for_every_seed_and_as_their_mean(folder: Path, kept: Path) -> None:
    result = measure(groups_of(Cells(kept), TINY, folder, [0], {}), ["help"])
    (axes,) = learning_figure(result).axes
    pair = [row["help"] for row in result["curves"]["pair"][0]]
    assert len(axes.lines) == 2 * len(VOICES)
    assert list(axes.lines[1].get_ydata()) == pair


def test_two_runs_give_the_same_bits(folder: Path, tmp_path: Path, cells: TogetherCells) -> None:
    other = TogetherCells(Cells(tmp_path), TINY, folder, 0, {})
    first, second = cells.pair()["final"], other.pair()["final"]
    assert first == second
    assert TogetherCells(Cells(tmp_path), TINY, folder, 1, {}).pair()["final"] != first


def test_what_others_of_a_seed_wait_for_is_computed_first(folder: Path, kept: Path) -> None:
    groups = groups_of(Cells(kept), TINY, folder, [0, 1], {})
    tasks = tasks_of(groups, ["alone"])
    assert len(tasks) == sum(len(cells.tasks(["alone"])) for pair in groups for cells in pair)
    first = [cast("partial[Any]", task) for task in tasks[:2]]
    assert [task.func.__name__ for task in first] == ["base", "base"]
    assert [task.func.__self__.seed for task in first] == [0, 1]
