"""Runs through `train(config)`; each is shared by the tests that look at it.

The first is on Ray, whose processes are counted; the others are compared with it, in one process.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import RunResult, train
from orchestrator.settings.config import load_config
from tests.integration.tiny import GPT2, actor_processes, run_in_process


@dataclass(frozen=True)
class Watched:
    """A run that ended, the actor processes it had, and those left when `train` returned."""

    result: RunResult
    had: list[psutil.Process]
    left: list[psutil.Process]

    @property
    def path(self) -> Path:
        return Path(self.result.path).absolute()

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text()))

    def rows(self, group: str) -> list[dict[str, Any]]:
        table = pq.read_table(self.path / "metrics.parquet").to_pylist()
        return [row for row in table if row["group"] == group]


def run(workplace: Path, *overrides: str) -> Watched:
    """A run on Ray."""
    had: list[psutil.Process] = []

    class WatchedCluster(RayCluster):
        def export(self, directory: str) -> dict[str, str]:
            had.extend(actor_processes(psutil.Process()))
            return super().export(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.processes.ray_runtime.RayCluster", WatchedCluster)
        result = train(load_config(str(workplace / "tiny.yaml"), overrides))
    return Watched(result, had, actor_processes(psutil.Process()))


def run_here(workplace: Path, *overrides: str) -> Watched:
    """A run in this process."""
    result = run_in_process(load_config(str(workplace / "tiny.yaml"), overrides))
    return Watched(result, [], [])


@pytest.fixture(scope="module")
def temporary_before(own_tmp: Path) -> set[Path]:
    """What drivers that other tests killed could not remove."""
    return set(own_tmp.glob("tandem-*"))


@pytest.fixture(scope="module")
def first(workplace: Path, shared_ray: None, temporary_before: set[Path]) -> Watched:
    return run(workplace, "name=first")


@pytest.fixture(scope="module")
def again(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The same config from another working directory, with a storage relative to it."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        watched = run_here(workplace, "name=again", "storage=mine")
        return Watched(
            RunResult(watched.result.status, os.path.abspath(watched.result.path), {}),
            watched.had,
            watched.left,
        )
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def other_seed(workplace: Path) -> Watched:
    return run_here(workplace, "name=other", "seed=1")


@pytest.fixture(scope="module")
def gpt2_on_text(workplace: Path) -> Watched:
    text = "{kind: text, paths: [%s], window: 24, block_bytes: 1024}" % (workplace / "text.txt")
    return run_here(workplace, "name=text", f"corpus={text}", f"data.layer={json.dumps(GPT2)}")


def test_the_summary_counts_steps_and_tokens_of_both_groups(first: Watched) -> None:
    summary = first.summary
    assert summary["data"]["steps"] == 9
    assert summary["memory"]["steps"] == 9 + 3 * summary["catchup_intervals"]
    for group in ("data", "memory"):
        totals = summary[group]
        assert totals["tokens"] > 0
        assert totals["tokens_per_s"] > 0
        assert 0 <= totals["stall_frac"] <= 1


def test_the_summary_counts_what_was_exchanged(first: Watched) -> None:
    summary = first.summary
    versions = 2 + 2 * 3 + summary["catchup_intervals"]
    assert summary["exchange"]["published"] == versions
    assert summary["exchange"]["max_lag"] == 1
    assert summary["exchange"]["bytes"] > 4 * versions


def test_the_summary_says_whether_the_memory_reflects_the_final_version_and_the_status_agrees(
    first: Watched,
) -> None:
    summary = first.summary
    verdict = summary["reflects_final_verdict"]
    assert verdict in ("yes", "hardly", "no")
    assert summary["reflects_final"] is (verdict == "yes")
    assert 0 <= summary["final_agreement"] <= 1
    expected = "finished_unreflected" if verdict == "no" else "finished"
    assert summary["status"] == first.result.status == expected
    assert 1 <= summary["catchup_intervals"] <= 2


def test_the_summary_has_held_out_figures_and_accuracy_on_both_sides(first: Watched) -> None:
    summary = first.summary
    heldout = summary["heldout"]
    for name in ("own_loss", "help_loss", "recall_kl", "self_loss"):
        assert heldout[name] > 0
    for name in ("recall_agreement", "slots_used_frac", "slots_top1pct_share"):
        assert 0 <= heldout[name] <= 1
    assert heldout["help_gain"] == pytest.approx(heldout["own_loss"] - heldout["help_loss"])
    assert heldout["reflection_probes"] >= 0
    for section in ("accuracy", "accuracy_seen"):
        assert list(summary[section]) == ["own", "help", "memory", "baseline"]
        assert all(0 <= value <= 1 for value in summary[section].values())
    assert summary["num_probes"] == 10


def test_the_summary_says_what_both_layers_knew_before_training(first: Watched) -> None:
    before = first.summary["before"]
    assert (before["num_windows"], before["num_probes"]) == (4, 8)
    assert before["heldout"]["own_loss"] > first.summary["heldout"]["own_loss"]
    assert set(before["accuracy"]) == {"own", "help", "memory", "baseline"}


def test_evaluating_is_counted_apart(first: Watched) -> None:
    evaluations = json.loads((first.path / "evaluations.json").read_text())
    assert first.summary["eval_s"] == pytest.approx(sum(e["eval_s"] for e in evaluations))
    assert first.summary["eval_s"] > 0


def test_evaluations_are_of_equal_versions_and_at_the_end_of_the_last_pair(first: Watched) -> None:
    evaluations = json.loads((first.path / "evaluations.json").read_text())
    last = 3 + first.summary["catchup_intervals"]
    pairs = [(e["data_version"], e["memory_version"], e["final"]) for e in evaluations]
    assert pairs[0] == (0, 0, False)
    assert pairs[-1] == (3, last, True)
    assert all(d == m and not final for d, m, final in pairs[:-1])


def test_a_run_leaves_these_files_behind(first: Watched) -> None:
    names = [
        "config.yaml",
        "tokenizer.json",
        "metrics.parquet",
        "evaluations.json",
        "summary.json",
        "report.html",
        "export/export.json",
        "export/data_layer/config.json",
        "export/data_layer/model.safetensors",
        "export/data_layer/tokenizer.json",
        "export/memory_layer/memory.json",
        "export/memory_layer/memory.safetensors",
        "export/memory_port/port.json",
        "export/memory_port/port.safetensors",
    ]
    assert [name for name in names if (first.path / name).stat().st_size == 0] == []


def test_a_run_leaves_tensorboard_events_and_no_half_written_file(first: Watched) -> None:
    files = [path.name for path in first.path.rglob("*") if path.is_file()]
    assert any("tfevents" in name for name in files)
    assert [name for name in files if name.endswith(".part")] == []


def test_the_resolved_config_of_a_run_is_the_one_it_was_started_with(
    first: Watched, workplace: Path
) -> None:
    started_with = load_config(str(workplace / "tiny.yaml"), ["name=first"])
    assert load_config(str(first.path / "config.yaml")) == started_with


def test_the_metrics_have_one_row_per_committed_interval(first: Watched) -> None:
    last = 3 + first.summary["catchup_intervals"]
    assert [row["interval"] for row in first.rows("data")] == [1, 2, 3]
    assert [row["interval"] for row in first.rows("memory")] == list(range(1, last + 1))


def test_every_interval_adopted_the_peers_version_before_it(first: Watched) -> None:
    assert [row["peer_version"] for row in first.rows("data")] == [0, 1, 2]
    memory = [row["peer_version"] for row in first.rows("memory")]
    assert memory == [0, 1, 2] + [3] * first.summary["catchup_intervals"]


def test_the_metrics_hold_the_losses_of_both_groups(first: Watched) -> None:
    for row in first.rows("data"):
        assert row["train.own"] > 0
        assert row["train.help"] > 0
    for row in first.rows("memory"):
        assert min(row["train.self"], row["train.recall"]) >= 0
        assert row["train.rows_written"] > 0


def test_the_exported_data_layer_loads_as_a_plain_model_and_generates(first: Watched) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = first.path / "export" / "data_layer"
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompt = tokenizer("The capital of Baran is", return_tensors="pt")["input_ids"]
    assert model.generate(prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt.shape[1]


def test_the_same_config_run_twice_ends_in_the_same_weights_bit_for_bit(
    first: Watched, again: Watched
) -> None:
    assert again.summary["digest"] == first.summary["digest"]


def test_the_same_config_run_twice_measures_the_same(first: Watched, again: Watched) -> None:
    assert again.summary["heldout"] == first.summary["heldout"]
    assert again.summary["accuracy"] == first.summary["accuracy"]


def test_another_seed_ends_in_other_weights_of_both_layers(
    first: Watched, other_seed: Watched
) -> None:
    digests = first.summary["digest"], other_seed.summary["digest"]
    assert digests[0]["data"] != digests[1]["data"]
    assert digests[0]["memory"] != digests[1]["memory"]


def test_a_relative_storage_is_relative_to_the_drivers_working_directory(again: Watched) -> None:
    assert (again.path / "export" / "data_layer" / "model.safetensors").exists()


def test_gpt2_and_a_text_corpus_work(gpt2_on_text: Watched) -> None:
    summary = gpt2_on_text.summary
    assert summary["status"].startswith("finished")
    assert summary["data"]["steps"] == 9
    assert summary["heldout"]["own_loss"] > 0
    config = json.loads((gpt2_on_text.path / "export/data_layer/config.json").read_text())
    assert config["model_type"] == "gpt2"


def test_a_text_corpus_has_no_accuracy(gpt2_on_text: Watched) -> None:
    assert {"accuracy", "accuracy_seen", "num_probes"}.isdisjoint(gpt2_on_text.summary)


def test_a_run_has_one_process_per_rank_and_one_evaluator(first: Watched) -> None:
    assert len(first.had) == 3


def test_no_actor_process_is_left_when_train_returns(first: Watched) -> None:
    assert first.left == []


def test_no_placement_group_is_left(first: Watched) -> None:
    states = [row["state"] for row in ray.util.placement_group_table().values()]
    assert states
    assert set(states) == {"REMOVED"}


def test_a_ray_that_was_there_before_is_there_afterwards(first: Watched) -> None:
    assert ray.is_initialized()


def test_no_temporary_file_of_ours_is_left(
    first: Watched, temporary_before: set[Path], own_tmp: Path
) -> None:
    assert set(own_tmp.glob("tandem-*")) - temporary_before == set()


def test_a_fault_that_is_none_of_ours_leaves_its_cause_in_the_summary(workplace: Path) -> None:
    def fail(row: dict[str, Any]) -> None:
        raise ValueError("too good")

    config = load_config(str(workplace / "tiny.yaml"), ["name=unforeseen"])
    with pytest.raises(ValueError, match="too good"):
        train(config, on_evaluation=fail)
    summary = json.loads((workplace / "runs" / "unforeseen" / "summary.json").read_text())
    assert (summary["status"], summary["cause"]) == ("failed", "ValueError: too good")
