"""Pairs are written in the background; the newest and the best are kept."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import GROUPS
from actors.wire import ConfigError
from orchestrator.in_process.host_store import HostStore
from orchestrator.loop.exchange import GroupCheckpoint, PairCheckpoint, Tally
from orchestrator.loop.ports import ObjectStore
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.checkpoint_writer import CheckpointWriter, superfluous
from orchestrator.run_dir.metrics import SavedRows
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import CheckpointSpec

ROWS = SavedRows([], [], 1.0)


def a_pair(interval: int) -> PairCheckpoint:
    groups = {group: GroupCheckpoint(group, interval, (), ()) for group in GROUPS}
    return PairCheckpoint(interval, groups, Tally())


@pytest.mark.parametrize(
    ("spec", "gone"),
    [
        ({"keep_last": 1}, [1, 2, 3, 4]),
        ({"keep_last": 3}, [1, 2]),
        ({"keep_last": 9}, []),
        ({"keep_last": 1, "keep_best": 1}, [1, 3, 4]),
        ({"keep_last": 1, "keep_best": 2}, [1, 3]),
        ({"keep_last": 1, "keep_best": 1, "best_is": "max"}, [2, 3, 4]),
    ],
)
def test_pairs_that_are_neither_new_nor_good_are_let_go(
    spec: dict[str, Any], gone: list[int]
) -> None:
    figures: dict[int, float] = {1: 3.0, 2: 1.0, 4: 2.0}  # 3 and 5 were not measured
    assert superfluous([1, 2, 3, 4, 5], figures, CheckpointSpec(**spec)) == gone


def test_of_equal_figures_the_newer_pair_is_kept() -> None:
    figures: dict[int, float] = {1: 1.0, 2: 1.0}
    assert superfluous([1, 2, 3], figures, CheckpointSpec(keep_last=1, keep_best=1)) == [1]


def test_pairs_are_written_and_old_ones_removed(tmp_path: Path) -> None:
    warnings: list[str] = []
    run_dir = RunDir(str(tmp_path))
    writer = CheckpointWriter(run_dir, CheckpointSpec(keep_last=2), warnings.append, HostStore())
    for interval in (1, 2, 3):
        writer.write(a_pair(interval), ROWS)
        while writer.last_interval != interval:
            assert writer.is_alive
            threading.Event().wait(0.01)
    writer.close()
    assert warnings == []
    assert checkpoints.intervals(run_dir) == [2, 3]
    assert writer.num_written == 3


def test_a_pair_that_cannot_be_written_is_a_warning_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    tried = threading.Event()
    real = checkpoints.save

    def save(run_dir: RunDir, pair: PairCheckpoint, rows: SavedRows, store: ObjectStore) -> int:
        if pair.interval == 1:
            run_dir.write(f"{checkpoints.folder(1)}/data-000.safetensors", b"half of it")
            tried.set()
            raise ConfigError("disk full")
        return real(run_dir, pair, rows, store)

    monkeypatch.setattr("orchestrator.run_dir.checkpoints.save", save)
    run_dir = RunDir(str(tmp_path))
    writer = CheckpointWriter(run_dir, CheckpointSpec(), warnings.append, HostStore())
    writer.write(a_pair(1), ROWS)
    assert tried.wait(10)
    writer.write(a_pair(2), ROWS)
    writer.close()
    assert len(warnings) == 1
    assert "checkpoint of interval 1 could not be written (disk full)" in warnings[0]
    assert checkpoints.intervals(run_dir) == [2]
    assert run_dir.list_folders("checkpoints") == ["000002"]  # what was written of 1 takes no room


def test_of_pairs_that_come_faster_than_they_are_written_the_newest_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, written = threading.Event(), threading.Event(), []

    def save(_run_dir: RunDir, pair: PairCheckpoint, _rows: SavedRows, _store: ObjectStore) -> int:
        begun.set()
        assert go_on.wait(10)
        written.append(pair.interval)
        return 0

    monkeypatch.setattr("orchestrator.run_dir.checkpoints.save", save)
    writer = CheckpointWriter(RunDir(str(tmp_path)), CheckpointSpec(), lambda _: None, HostStore())
    writer.write(a_pair(1), ROWS)
    assert begun.wait(10)
    for interval in (2, 3, 4):
        writer.write(a_pair(interval), ROWS)
    go_on.set()
    writer.close()
    assert written == [1, 4]


def test_storage_that_hangs_does_not_keep_a_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, warnings = threading.Event(), []

    def save(_run_dir: RunDir, _pair: PairCheckpoint, _rows: SavedRows, _store: ObjectStore) -> int:
        assert answers.wait(60)
        return 0

    monkeypatch.setattr("orchestrator.run_dir.checkpoints.save", save)
    monkeypatch.setattr("orchestrator.run_dir.run_dir.HANGS_S", 0.05)
    run_dir = RunDir(str(tmp_path))
    writer = CheckpointWriter(run_dir, CheckpointSpec(), warnings.append, HostStore())
    writer.write(a_pair(1), ROWS)
    writer.close()
    answers.set()
    (warning,) = warnings
    assert "nothing was written for 0.05 s, so the newest checkpoint is given up" in warning
    assert "(the last one written: none)" in warning


def test_a_run_that_goes_on_has_the_pair_that_it_goes_on_from(tmp_path: Path) -> None:
    run_dir, warn = RunDir(str(tmp_path)), print
    writer = CheckpointWriter(run_dir, CheckpointSpec(), warn, HostStore(), newest=7)
    assert (writer.last_interval, writer.num_written) == (7, 0)
    writer.write(a_pair(8), ROWS)
    writer.close()
    assert writer.last_interval == 8
