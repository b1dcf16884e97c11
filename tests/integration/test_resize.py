"""Groups of a running run are given other numbers of workers, by commands in the run's mailbox."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from ray.util import placement_group_table

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from actors.wire import ConfigError
from benchmarks.resize import longest_gap_s, median_interval_s
from jobs.control import run_scale
from orchestrator.console import Console
from orchestrator.run import train
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import look
from orchestrator.settings.config import Config, load_config
from tests.chaos.injector import Faults, fail_at
from tests.integration.tiny import REFLECTED, actor_processes

pytestmark = pytest.mark.usefixtures("shared_ray")
LONG = pytest.mark.long

PATIENCE_S = 180.0
PACE_S = 1.5  # so that the machine is free for what is added, and the run not over before
HALF_CPUS = ("data.workers.cpus=0.5", "memory.workers.cpus=0.5")
SETTINGS = ("intervals=60", "checkpoints.every=20", "evaluation.every=0", *HALF_CPUS)
numbers = itertools.count()


class Told:
    """What a thread does to a run while it trains in this one."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as err:
            self.error = err

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._thread.join(PATIENCE_S)
        if self.error is not None:
            raise self.error


def wait_for_training(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while look(RunDir(url)).state != "running":
        assert time.monotonic() < deadline, "the run did not begin to train"
        time.sleep(0.1)


def scale(url: str, wait_s: float = 60.0, **sizes: int | None) -> None:
    sizes = {"data_workers": None, "memory_workers": None} | sizes
    run_scale(url, wait_s=wait_s, console=Console(file=io.StringIO()), no_wait=False, **sizes)


def a_run(workplace: Path, *overrides: str) -> Config:
    name = f"name=resize-{next(numbers)}"
    return load_config(str(workplace / "tiny.yaml"), [*SETTINGS, name, *overrides])


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Callable[..., Faults]]:
    """Faults of a run whose intervals are slow until it is told otherwise."""

    def paced(*faults: Any) -> Faults:
        made = Faults(tmp_path / f"faults-{next(numbers)}", *faults)
        made.pace(PACE_S)
        return made

    yield paced
    assert actor_processes(psutil.Process()) == []
    assert {row["state"] for row in placement_group_table().values()} <= {"REMOVED"}


def rows_of(config: Config, group: str) -> list[dict[str, Any]]:
    rows = pq.read_table(f"{config.run_url}/metrics.parquet").to_pylist()
    return [row for row in rows if row["group"] == group]


def first_processes_stayed(injected: Faults) -> None:
    """Rank 0 of both groups was one process from the beginning to the end, and no rank did an
    interval twice.
    """
    for group in GROUPS:
        rows = injected.began(group)
        assert len({pid for rank, _, pid in rows if rank == 0}) == 1
        begun = [(rank, interval) for rank, interval, _ in rows]
        assert len(set(begun)) == len(begun)


def losses_go_on(config: Config, group: str, loss: str) -> None:
    """Where the number of workers changes, the loss does not."""
    rows = rows_of(config, group)
    values = [row[f"train.{loss}"] for row in rows]
    sizes = [row["num_workers"] for row in rows]
    changes = [i for i in range(1, len(rows)) if sizes[i] != sizes[i - 1]]
    assert changes
    for at in changes:
        assert mean(values[at : at + 4]) < 1.15 * mean(values[max(0, at - 4) : at])


@LONG
def test_both_groups_grow_and_shrink_in_a_running_run(
    workplace: Path, faults: Callable[..., Faults]
) -> None:
    config, injected = a_run(workplace, *REFLECTED), faults()
    refusals: list[str] = []

    def work() -> None:
        wait_for_training(config.run_url)
        scale(config.run_url, data_workers=2, memory_workers=2)
        with pytest.raises(ConfigError) as refused:
            scale(config.run_url, wait_s=0.5, data_workers=4)
        refusals.append(str(refused.value))
        scale(config.run_url, data_workers=1, memory_workers=1)
        injected.pace(0)

    with injected.injected(), Told(work):
        summary = train(config).summary
    assert refusals == [
        "refused: not enough resources for 2 more worker(s) after 0.5 s: CPU: asked 1 more, "
        "available 0 of 2; add nodes, wait for other jobs to end, or ask for fewer"
    ]
    assert sorted((r["group"], r["before"], r["after"]) for r in summary["resizes"]) == [
        (DATA, 1, 2),
        (DATA, 2, 1),
        (MEMORY, 1, 2),
        (MEMORY, 2, 1),
    ]
    assert summary["status"] == "finished"
    assert summary["restarts"] == []
    first_processes_stayed(injected)
    assert "<h2>Resizes</h2>" in RunDir(config.run_url).read("report.html")


@LONG
@pytest.mark.parametrize("group", GROUPS)
def test_the_other_group_goes_on_while_one_is_resized(
    workplace: Path, faults: Callable[..., Faults], group: str
) -> None:
    config, injected = a_run(workplace), faults()

    def work() -> None:
        wait_for_training(config.run_url)
        for num in (2, 1):
            scale(config.run_url, **{f"{group}_workers": num})
        injected.pace(0)

    with injected.injected(), Told(work):
        summary = train(config).summary
    first_processes_stayed(injected)
    assert {pid for rank, _, pid in injected.began(peer_of(group)) if rank} == set()
    for name, loss in ((DATA, "own"), (DATA, "help"), (MEMORY, "self")):
        if name == group:
            losses_go_on(config, name, loss)
    peer = [row for row in rows_of(config, peer_of(group)) if row["wait_s"] is not None]
    paced = [row for row in peer if row["interval"] <= summary["resizes"][-1]["interval"] + 1]
    gap_s, interval_s = longest_gap_s(paced), median_interval_s(paced)
    print(f"{group} resized: the peer's longest gap {gap_s:.3f} s, its interval {interval_s:.3f} s")
    assert gap_s <= 2 * interval_s


@LONG
def test_a_rank_that_dies_after_its_group_grew_is_replayed_at_the_new_size(
    workplace: Path, faults: Callable[..., Faults]
) -> None:
    """What was replayed has the checksums of the first time, or the run would have ended."""
    config = a_run(workplace, "checkpoints.every=30")
    injected = faults(fail_at(MEMORY, 1, 50, "in a step"))

    def work() -> None:
        wait_for_training(config.run_url)
        scale(config.run_url, memory_workers=2)
        injected.pace(0)

    with injected.injected(), Told(work):
        summary = train(config).summary
    assert injected.fired() == [1], "the fault did not fire"
    (resize,), (restart,) = summary["resizes"], summary["restarts"]
    assert resize["interval"] < 50
    assert (restart["group"], restart["rank"]) == (MEMORY, 1)
    pids = {pid for rank, interval, pid in injected.began(MEMORY) if interval == 50 and rank == 1}
    assert len(pids) == 2
    assert {row["num_workers"] for row in rows_of(config, MEMORY)[50:]} == {2}


@LONG
def test_a_group_that_grew_is_resumed_with_the_size_it_had(
    workplace: Path, faults: Callable[..., Faults]
) -> None:
    from jobs.control import run_resume, run_stop
    from orchestrator.errors import InterruptedRunError

    config, injected = a_run(workplace), faults()
    told: list[str] = []

    def work() -> None:
        wait_for_training(config.run_url)
        scale(config.run_url, data_workers=2)
        said = io.StringIO()
        run_stop(config.run_url, Console(file=said), no_wait=False)
        told.append(said.getvalue())

    with injected.injected(), Told(work), pytest.raises(InterruptedRunError):
        train(config)
    assert "done: stopped by a command" in told[0]
    assert look(RunDir(config.run_url)).state == "interrupted"
    run_resume(config.run_url, [], Console(quiet=True))
    assert look(RunDir(config.run_url)).state.startswith("finished")
    assert rows_of(config, DATA)[-1]["num_workers"] == 2
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        run_resume(config.run_url, [], Console(quiet=True))
