"""Faults inside a rank's process, by group, rank, interval and point, each asserted to have fired.

The ranks of a run under test are `Rank`s of this module: the product's own, with the trainer's
methods wrapped where a point lies. A fault fires so many times, counted by files in a folder that
all processes see; the starts of all intervals are written down there too. Intervals can be made to
begin late, so that a test has time for what it does meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

import orchestrator.processes.ray_actors
from orchestrator.loop.command import Command
from orchestrator.run_dir.control_thread import ControlThread

FOLDER = "TANDEM_TEST_FAULTS"
PACE = "pace"
HANG_S = 600.0

POINTS = (
    "start-up",
    "adopting",
    "in a step",
    "after the last reduction",
    "before publish",
    "while publishing",
    "checkpointing",
)


@dataclass(frozen=True)
class Fault:
    """What happens to one rank at one point.

    Attributes:
        group, rank: to whom.
        interval: in which of its intervals; at start-up: at the start of which incarnation.
        point: one of `POINTS`, or `restoring`.
        kind: a signal's name, `hang`, or `alter` for one byte of what it is given.
        times: how often, each time it comes by.
    """

    group: str
    rank: int
    interval: int
    point: str
    kind: str = "SIGKILL"
    times: int = 1


def fail_at(group: str, rank: int, interval: int, point: str, **more: Any) -> Fault:
    """A fault; see `Fault`."""
    return Fault(group, rank, interval, point, **more)


class Faults:
    """The faults of one run, in a folder of their own."""

    def __init__(self, folder: Path, *faults: Fault) -> None:
        self.folder, self.faults = folder, faults
        folder.mkdir()
        (folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))

    def pace(self, seconds: float) -> None:
        """From now on every interval begins so many seconds late; 0: no longer."""
        path = self.folder / PACE
        (self.folder / "next").write_text(str(seconds))
        (self.folder / "next").rename(path)

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Runs started inside have these faults."""
        with pytest.MonkeyPatch.context() as patch:
            options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
            faulty = ray.remote(concurrency_groups={"beat": 1}, **options)(Rank)
            environment = {"env_vars": {FOLDER: str(self.folder)}}
            patch.setattr("orchestrator.processes.launch.RankActor", _Optioned(faulty, environment))
            yield

    def fired(self) -> list[int]:
        """How often each fault fired."""
        return [len(list(self.folder.glob(f"fired-{i}-*"))) for i in range(len(self.faults))]

    def began(self, group: str) -> list[tuple[int, int, int]]:
        """(rank, interval, pid) of every interval that a group's ranks began, in order of time."""
        rows = []
        for path in self.folder.glob(f"began-{group}-*"):
            _, _, rank, interval, pid, at = path.name.split("-")
            rows.append((int(at), int(rank), int(interval), int(pid)))
        return [row[1:] for row in sorted(rows)]


class _Optioned:
    """An actor class whose actors get the folder's name in their environment."""

    def __init__(self, actor_class: Any, environment: dict[str, Any]) -> None:
        self._class, self._environment = actor_class, environment

    def options(self, **options: Any) -> Any:
        return self._class.options(runtime_env=self._environment, **options)


class Rank(orchestrator.processes.ray_actors.Rank):
    """The product's rank with faults in it."""

    def start(self, incarnation: int) -> Any:
        self._reach("start-up", incarnation)
        description = super().start(incarnation)
        self._wrap(self._trainer)
        return description

    def interval(self, order: Any, headers: Any, *buckets: Any) -> Any:
        name = f"began-{self._group}-{self._rank}-{order.interval}-{os.getpid()}-{time.time_ns()}"
        folder = Path(os.environ[FOLDER])
        (folder / name).touch()
        if (folder / PACE).exists():
            time.sleep(float((folder / PACE).read_text()))
        if buckets and self._reach("adopting", order.interval, altered := [*buckets]):
            buckets = tuple(altered)
        return super().interval(order, headers, *buckets)

    def restore(self, headers: Any, *buckets: Any) -> None:
        if self._reach("restoring", headers[0].interval, altered := [*buckets]):
            buckets = tuple(altered)
        super().restore(headers, *buckets)

    def _wrap(self, trainer: Any) -> None:
        """Puts the points where they lie in a trainer's interval."""

        def before(name: str, point: str, when: Callable[[], bool] = lambda: True) -> None:
            method = getattr(trainer, name)

            def reached(*args: Any, **kwargs: Any) -> Any:
                if when():
                    self._reach(point, trainer.interval_done + (name not in SAVED))
                return method(*args, **kwargs)

            setattr(trainer, name, reached)

        def after(name: str, point: str) -> None:
            method = getattr(trainer, name)

            def reached(*args: Any, **kwargs: Any) -> Any:
                out = method(*args, **kwargs)
                self._reach(point, trainer.interval_done)
                return out

            setattr(trainer, name, reached)

        first = {"step": -1}

        def in_the_second_step() -> bool:
            first["step"] = first["step"] if first["step"] >= 0 else trainer.step
            return bool(trainer.step > first["step"])

        before("reduce", "in a step", in_the_second_step)
        marked = trainer.mark

        def mark(phase: str) -> None:
            marked(phase)
            if phase == "measuring":  # all steps are done, nothing is published yet
                self._reach("after the last reduction", trainer.interval_done + 1)
            if phase == "publishing":
                self._reach("before publish", trainer.interval_done + 1)

        trainer.mark = mark
        after("publish", "while publishing")
        before("save", "checkpointing")

    def _reach(self, point: str, number: int, buckets: list[Any] | None = None) -> bool:
        """Lets the fault of this point happen; True where one byte of a bucket was altered."""
        folder = Path(os.environ[FOLDER])
        for index, values in enumerate(json.loads((folder / "faults.json").read_text())):
            fault = Fault(**values)
            here = fault.group, fault.rank, fault.interval, fault.point
            if here != (self._group, self._rank, number, point):
                continue
            for turn in range(fault.times):
                try:
                    (folder / f"fired-{index}-{turn}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                if fault.kind == "alter":
                    assert buckets is not None
                    buckets[-1] = buckets[-1].copy()
                    buckets[-1][len(buckets[-1]) // 2] ^= 1
                    return True
                if fault.kind == "hang":
                    time.sleep(HANG_S)
                else:
                    os.kill(os.getpid(), getattr(signal, fault.kind))
                break
        return False


SAVED = ("save",)  # called when the interval counts as done already


def commanded_at_once(patch: pytest.MonkeyPatch, **values: Any) -> None:
    """The driver's first look for commands finds one with these fields, later ones none."""
    coming = [Command(id=f"{1:019d}-00000000", run="run", driver="d", **values)]

    def commands(self: ControlThread) -> Sequence[Command]:
        return [coming.pop()] if coming else []

    patch.setattr(ControlThread, "commands", commands)
