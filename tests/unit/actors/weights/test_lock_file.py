"""One of two processes gets the lock; what a dead one left is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import pytest

from actors.weights.lock_file import STALE_S, Holder, LockedError, locked, refuse_lost

HOLD = """
import sys, time
from actors.weights.lock_file import locked
with locked(sys.argv[1], "tell"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_is_there_during_the_block_and_gone_after_it(tmp_path: Path) -> None:
    url = f"{tmp_path}/lock.json"
    with locked(url, "tell") as mine:
        assert json.loads(Path(url).read_text()) == asdict(mine)
        assert mine.pid == os.getpid()
    assert not Path(url).exists()


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_lock_that_is_held_refuses_others_by_name(tmp_path: Path, place: str) -> None:
    url = f"{tmp_path}/lock.json" if place == "local" else f"memory://{tmp_path.name}/lock.json"
    by_name = pytest.raises(LockedError, match=rf"process {os.getpid()} on .*tell")
    with locked(url, "tell"), by_name, locked(url, "untell", patience_s=0):
        raise AssertionError("two hold it")
    with locked(url, "untell", patience_s=0):
        pass


def test_another_process_is_waited_for_with_one_message(tmp_path: Path) -> None:
    url = f"{tmp_path}/lock.json"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    said: list[str] = []
    polls: list[float] = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            other.communicate("")
        time.sleep(0.01)

    with locked(url, "tell", said.append, sleep=sleep):
        assert other.returncode == 0
    assert len(polls) >= 3
    assert said == [f"waiting for process {other.pid} on {Holder.here('').host} (tell), which is "
                    "changing the same writes"]  # fmt: skip


def test_what_a_killed_process_left_is_taken_away_at_once(tmp_path: Path) -> None:
    url = f"{tmp_path}/lock.json"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.communicate()
    assert Path(url).exists()
    with locked(url, "tell", patience_s=0) as mine:
        assert json.loads(Path(url).read_text())["token"] == mine.token
    assert list(tmp_path.iterdir()) == []


def test_a_pid_that_another_process_has_by_now_holds_nothing() -> None:
    mine = Holder.here("tell")
    assert not mine.is_stale(time.time())
    assert replace(mine, began=mine.began - 100).is_stale(time.time())


def test_a_lock_of_another_machine_is_believed_for_a_while() -> None:
    other = replace(Holder.here("tell"), host="elsewhere")
    assert not other.is_stale(other.since + STALE_S - 1)
    assert other.is_stale(other.since + STALE_S + 1)


def test_a_lock_that_was_taken_away_is_noticed(tmp_path: Path) -> None:
    url = f"{tmp_path}/lock.json"
    with locked(url, "tell") as mine:
        refuse_lost(url, mine)
        other = replace(mine, token="of another")
        Path(url).write_text(json.dumps(asdict(other)))
        with pytest.raises(LockedError, match="taken away by another process while tell went on"):
            refuse_lost(url, mine)
    assert Path(url).exists()  # the other's


@pytest.mark.parametrize("place", ["local", "memory"])
def test_of_many_threads_one_at_a_time_holds_it(tmp_path: Path, place: str) -> None:
    url = f"{tmp_path}/lock.json" if place == "local" else f"memory://{tmp_path.name}-many/l.json"
    inside, most = [0], [0]

    def hold() -> None:
        for _ in range(5):
            with locked(url, "tell", sleep=lambda s: time.sleep(0.001)):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    fs, path = fsspec.core.url_to_fs(url)
    assert not fs.exists(path)
