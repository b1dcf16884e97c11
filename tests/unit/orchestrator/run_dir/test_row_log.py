"""Rows of a running run: added, never written twice, and read back whole whatever went wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.wire import StorageError
from orchestrator.run_dir import row_log
from orchestrator.run_dir.metrics import Row
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.row_log import EVALUATION, INTERVAL, RowLog, read_rows
from orchestrator.run_dir.run_dir import RunDir

FIRST = "metrics/000000000.jsonl"


@pytest.fixture
def local(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "run"))


@pytest.fixture
def remote() -> Iterator[RunDir]:
    """Storage whose files can't grow."""
    run_dir = RunDir(f"memory://{uuid.uuid4().hex}")
    yield run_dir
    run_dir.remove("")


@pytest.fixture(params=["local", "remote"])
def run_dir(request: pytest.FixtureRequest) -> RunDir:
    found: RunDir = request.getfixturevalue(request.param)
    return found


def intervals(start: int, end: int) -> list[Row]:
    return [{"group": "data", "interval": i, "loss": i / 7} for i in range(start, end)]


def write(log: RowLog, *rows: Row) -> None:
    for row in rows:
        log.add(INTERVAL, row)
    log.write()


def test_rows_of_both_kinds_come_back_as_they_were(run_dir: RunDir) -> None:
    log = RowLog(run_dir)
    write(log, *intervals(1, 3))
    log.add(EVALUATION, {"data_version": 1, "answers": [{"own": "Wörter\n\u2028"}]})
    write(log, *intervals(3, 4))
    assert read_rows(run_dir) == log.rows()
    assert read_rows(run_dir) == (
        intervals(1, 4), [{"data_version": 1, "answers": [{"own": "Wörter\n\u2028"}]}]
    )  # fmt: skip


def test_a_local_file_grows_in_place(local: RunDir, tmp_path: Path) -> None:
    log = RowLog(local)
    write(log, *intervals(1, 3))
    before = (tmp_path / "run" / FIRST).stat()
    write(log, *intervals(3, 5))
    after = (tmp_path / "run" / FIRST).stat()
    assert (after.st_ino, list(local.list_files("metrics"))) == (
        before.st_ino, [FIRST.partition("/")[2]]
    )  # fmt: skip
    assert after.st_size == before.st_size * 2


def test_where_files_cannot_grow_each_write_is_a_part_with_the_new_rows_alone(
    remote: RunDir,
) -> None:
    log = RowLog(remote)
    write(log, *intervals(1, 3))
    write(log, *intervals(3, 4))
    log.write()  # nothing new
    assert list(remote.list_files("metrics")) == ["000000000.jsonl", "000000002.jsonl"]
    assert remote.read("metrics/000000002.jsonl").count("\n") == 1


def test_many_parts_are_joined_and_one_that_is_left_behind_is_not_read_twice(
    remote: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_log, "MOST_PARTS", 3)
    log = RowLog(remote)
    for i in range(1, 4):
        write(log, *intervals(i, i + 1))
    left_behind = remote.read("metrics/000000001.jsonl")
    write(log, *intervals(4, 5))
    assert list(remote.list_files("metrics")) == ["000000000.jsonl"]
    remote.write("metrics/000000001.jsonl", left_behind)
    write(log, *intervals(5, 6))
    assert read_rows(remote)[0] == intervals(1, 6)


def test_after_a_write_that_broke_off_every_row_is_written_whole(
    local: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RowLog(local)
    write(log, *intervals(1, 3))
    real = local.append

    def half(name: str, content: str) -> None:
        real(name, content[: len(content) // 2])
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(local, "append", half)
        with pytest.raises(StorageError):
            write(log, *intervals(3, 4))
        assert read_rows(local)[0] == intervals(1, 3)  # half a line is none
    write(log, *intervals(4, 5))
    assert read_rows(local)[0] == intervals(1, 5)


def test_a_run_that_goes_on_begins_its_log_anew(run_dir: RunDir) -> None:
    first = RowLog(run_dir)
    for i in range(1, 6):
        write(first, *intervals(i, i + 1))
    second = RowLog(run_dir, intervals(1, 3), [{"data_version": 1}])
    write(second, {"interval": 3, "again": True})
    assert read_rows(run_dir) == (
        [*intervals(1, 3), {"interval": 3, "again": True}], [{"data_version": 1}]
    )  # fmt: skip


def test_a_run_that_ended_or_is_of_an_earlier_version_has_its_rows_in_two_files(
    run_dir: RunDir,
) -> None:
    assert read_rows(run_dir) == ([], [])
    run_dir.write("metrics.parquet", to_parquet([{"interval": 1, "a": None}, {"interval": 2}]))
    run_dir.write("evaluations.json", json.dumps([{"data_version": 1}]))
    assert read_rows(run_dir) == ([{"interval": 1}, {"interval": 2}], [{"data_version": 1}])
    write(RowLog(run_dir), {"interval": 9})  # it was resumed, and runs
    assert read_rows(run_dir) == ([{"interval": 9}], [])
