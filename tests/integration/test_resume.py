"""Runs that stop and go on: bit-identical, from the newest sound pair, or refused with a reason.

In one process, whose bits are those of Ray; where workers are counted, on Ray.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.wire import CheckpointError, ConfigError
from orchestrator.console import Console
from orchestrator.run import train
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import SUMMARY
from tests.integration.tiny import run_in_process

SETTINGS = ("intervals=4", "checkpoints={every: 1, keep_last: 4}", "evaluation.every=0")


def run(workplace: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    return run_told(workplace, *overrides, resume=resume)[0]


def run_told(
    workplace: Path, *overrides: str, resume: bool = False, in_process: bool = True
) -> tuple[dict[str, Any], str]:
    """The summary of a run, and what a person reads meanwhile."""
    console = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
    config = load_config(str(workplace / "tiny.yaml"), [*SETTINGS, *overrides])
    by = run_in_process if in_process else train
    summary = by(config, console, resume=resume).summary
    return summary, console.export_text()


@pytest.fixture(scope="module")
def whole(workplace: Path) -> dict[str, Any]:
    """An undisturbed run; its directory is copied by those who disturb it."""
    return run(workplace, "name=whole")


def stopped_at(workplace: Path, name: str, *intervals: int) -> Path:
    """The undisturbed run's directory as a kill would have left it, with these pairs."""
    target = workplace / "runs" / name
    shutil.copytree(workplace / "runs" / "whole", target)
    (target / SUMMARY).unlink()
    for folder in (target / "checkpoints").iterdir():
        if int(folder.name) not in intervals:
            shutil.rmtree(folder)
    text = (target / "config.yaml").read_text()
    (target / "config.yaml").write_text(text.replace("name: whole", f"name: {name}"))
    return target


@pytest.mark.parametrize("interval", [1, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_the_undisturbed_one(
    workplace: Path, whole: dict[str, Any], interval: int
) -> None:
    name = f"from-{interval}"
    stopped_at(workplace, name, interval)
    again = run(workplace, f"name={name}", resume=True)
    assert again["digest"] == whole["digest"]
    assert again["data"]["steps"] == whole["data"]["steps"]
    assert again["data"]["tokens"] == whole["data"]["tokens"]
    assert again["exchange"] == whole["exchange"]
    assert again["reflects_final_reason"] == whole["reflects_final_reason"]


def test_an_altered_checkpoint_is_named_and_the_one_before_is_used(
    workplace: Path, whole: dict[str, Any]
) -> None:
    target = stopped_at(workplace, "altered", 2, 3)
    part = target / "checkpoints" / "000003" / "memory-000.safetensors"
    content = bytearray(part.read_bytes())
    content[-100] ^= 1
    part.write_bytes(content)
    summary, told = run_told(workplace, "name=altered", resume=True)
    assert summary["digest"] == whole["digest"]
    assert "000003/memory-000.safetensors: checksum" in told
    assert "resuming after interval 2" in told


def test_a_pair_whose_manifest_was_never_written_is_no_pair(
    workplace: Path, whole: dict[str, Any]
) -> None:
    target = stopped_at(workplace, "torn", 2, 3)
    (target / "checkpoints" / "000003" / "manifest.json").unlink()
    summary, told = run_told(workplace, "name=torn", resume=True)
    assert summary["digest"] == whole["digest"]
    assert "resuming after interval 2" in told


def test_where_no_checkpoint_is_sound_the_run_is_refused(
    workplace: Path, whole: dict[str, Any]
) -> None:
    target = stopped_at(workplace, "broken", 2)
    part = target / "checkpoints" / "000002" / "data-000.safetensors"
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"data-000.safetensors: truncated or altered"):
        run(workplace, "name=broken", resume=True)


def test_a_run_without_a_checkpoint_is_resumed_from_its_beginning(
    workplace: Path, whole: dict[str, Any]
) -> None:
    stopped_at(workplace, "early")
    summary, told = run_told(workplace, "name=early", resume=True)
    assert summary["digest"] == whole["digest"]
    assert "from its beginning" in told


def test_resuming_a_run_that_is_not_there_starts_it(workplace: Path, whole: dict[str, Any]) -> None:
    assert run(workplace, "name=anew", resume=True)["digest"] == whole["digest"]


def test_a_resume_with_another_config_names_the_keys(
    workplace: Path, whole: dict[str, Any]
) -> None:
    stopped_at(workplace, "changed", 2)
    with pytest.raises(ConfigError, match=r"data\.optimizer\.lr: was 0\.002, now 0\.5; mix\.fresh"):
        run(workplace, "name=changed", "data.optimizer.lr=0.5", "mix.fresh=0.7", resume=True)


def test_a_finished_run_is_not_resumed(workplace: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        run(workplace, "name=whole", resume=True)


def test_the_rows_of_a_resumed_run_have_no_gap_and_no_double(
    workplace: Path, whole: dict[str, Any]
) -> None:
    import pyarrow.parquet as pq

    stopped_at(workplace, "rows", 2)
    run(workplace, "name=rows", resume=True)
    table = pq.read_table(workplace / "runs" / "rows" / "metrics.parquet").to_pylist()
    data = [row["interval"] for row in table if row["group"] == "data"]
    assert data == [1, 2, 3, 4]
    starts = [row["start_s"] for row in table if row["group"] == "data"]
    assert starts == sorted(starts)


@pytest.mark.long
@pytest.mark.usefixtures("shared_ray")
def test_several_workers_resume_with_another_number_of_them(
    workplace: Path, whole: dict[str, Any]
) -> None:
    """The state is that of the group: whoever restores it goes on from the same weights."""
    stopped_at(workplace, "more-workers", 3)
    workers = "data.workers={num_workers: 2, cpus: 0.5}"
    summary, _ = run_told(workplace, "name=more-workers", workers, resume=True, in_process=False)
    assert summary["data"]["tokens"] == whole["data"]["tokens"]
    for name in ("own_loss", "help_loss", "self_loss"):
        assert summary["heldout"][name] == pytest.approx(whole["heldout"][name], rel=1e-3)
