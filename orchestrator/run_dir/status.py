"""`status.json`: what a run is doing, refreshed by its driver, readable wherever its storage is.

A driver that died leaves the file as it was. So a reader looks at the age of its heartbeat, and
where that is no proof (another machine's clock, a machine with many process tables) whether the
heartbeat still moves. Pure functions, but for `look`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import psutil

from actors.lessons.live_lessons import digest_of
from actors.settings.run import GROUPS
from actors.wire import ConfigError, Heartbeat, LiveLesson, Location, Told
from orchestrator.loop.phases import Starting
from orchestrator.loop.resize_rules import group_sizes
from orchestrator.loop.schedule import Plan
from orchestrator.run_dir.metrics import SHOWN_LOSSES, Metrics, Row
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, STATUS, SUMMARY, resume_command

FORMAT = 1
FRESH_REFRESHES = 4  # a heartbeat of another machine that is older is looked at twice
LOOK_AGAIN_REFRESHES = 2.5  # time that a living driver has to refresh it
SKEW_S = 2.0  # of two machines' clocks, taken for none

TRAINING, CATCHING_UP = "training", "catching up, and the final evaluation"
ENDED = "ended"  # phase of a rank whose run has ended

Places = Mapping[str, Sequence[tuple[Location, Heartbeat | None]]]  # of every rank that is ready


@dataclass(frozen=True)
class Driver:
    """A run's driver: the one process that owns everything else.

    Attributes:
        id: a command names the driver that it is for.
        host, pid, pid_started: where it runs.
        started_at: when it began, seconds since the epoch.
        every_s: how often it refreshes the status.
        in_process: whether both groups are in its own process.
    """

    id: str
    host: str
    pid: int
    pid_started: float
    started_at: float
    every_s: float
    in_process: bool = False

    @classmethod
    def here(cls, driver_id: str, every_s: float, in_process: bool = False) -> Driver:
        """This process."""
        started = psutil.Process().create_time()
        host, pid = platform.node(), os.getpid()
        return cls(driver_id, host, pid, started, time.time(), every_s, in_process)


@dataclass(frozen=True)
class Pulse:
    """What changes with every refresh.

    Attributes:
        at: when, seconds since the epoch.
        loop_at: when the coordinator's loop last ran.
        phase: what the run does.
        ended: how it ended; None while it runs.
    """

    at: float
    loop_at: float
    phase: str
    ended: str | None = None


def status_of(
    config: Config,
    metrics: Metrics,
    places: Places,
    checkpoints: Mapping[str, Any],
    driver: Driver,
    pulse: Pulse,
    states: Mapping[str, str] = MappingProxyType({}),
    told: Sequence[Told] = (),
    lessons: Sequence[LiveLesson] = (),
) -> dict[str, Any]:
    """The whole status.

    Args:
        config: as the run is now.
        metrics: so far.
        places: where its processes are, and each one's last heartbeat.
        checkpoints: what was written.
        driver, pulse: who writes this, and when.
        states: label of the phase that each group is in.
        told: what the memory's newest version was told.
        lessons: what the newest version of the data layer is taught.
    """
    evaluation = metrics.evaluations[-1] if metrics.evaluations else {}
    groups = {
        group: {
            "state": states.get(group, Starting.label),
            **_group(group, config, metrics, places.get(group, ())),
        }
        for group in GROUPS
    }
    interval = min(group["interval"] for group in groups.values())
    is_last = pulse.phase == TRAINING and interval >= config.intervals
    status = {
        "format": FORMAT,
        "run": config.name,
        "driver": asdict(driver),
        **asdict(pulse),
        "phase": CATCHING_UP if is_last else pulse.phase,
        "wall_s": pulse.at - metrics.started_at,
        "interval": interval,
        "intervals": config.intervals,
        "groups": groups,
        "checkpoints": {"every": config.checkpoints.every, **checkpoints},
        "heldout": {
            name: value
            for name, value in evaluation.items()
            if name.startswith(("heldout.", "accuracy.")) or name == "data_version"
        },
        "restarts": len(metrics.restarts),
        "resizes": list(metrics.resizes),
        "told": [asdict(one) for one in told],
        "lessons": {"num": len(lessons), "digest": digest_of(lessons)},
    }
    return status if pulse.ended is None else _with_ranks_that(ENDED, status)


def _with_ranks_that(phase: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """The status with this as what all its groups and ranks do, whatever they reported last. Of a
    run that has ended, the interval of a rank is the last that its group completed.
    """

    def shown(rank: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        last = group["interval"] if phase == ENDED else rank["interval"]
        return {**rank, "phase": phase, "interval": min(rank["interval"], last)}

    groups = {
        name: {**group, "state": phase, "ranks": [shown(rank, group) for rank in group["ranks"]]}
        for name, group in status["groups"].items()
    }
    return {**status, "groups": groups}


def _group(
    group: str,
    config: Config,
    metrics: Metrics,
    places: Sequence[tuple[Location, Heartbeat | None]],
) -> dict[str, Any]:
    plan = Plan.of(config.intervals, config.exchange, config.checkpoints.every)
    rows = reversed(list(metrics.intervals))
    row: Row = next((r for r in rows if r["group"] == group), {})
    steps = config.group(group).steps_per_interval
    took_s = row["wait_s"] + row["end_s"] - row["start_s"] if row else 0.0
    return {
        "workers": group_sizes(config)[group],
        "interval": row.get("interval", 0),
        "step": row.get("step", 0),
        "total_steps": config.total_steps(group),
        "steps_per_s": steps / took_s if took_s else None,
        "tokens_per_s": row.get("tokens_per_s"),
        "waiting_frac": row["wait_s"] / took_s if took_s else None,
        "losses": {n: row[k] for n in SHOWN_LOSSES[group] if (k := f"train.{n}") in row},
        "version": plan.version_at(row.get("interval", 0)),
        "adopted": row.get("peer_version", 0),
        "lag": row.get("lag", 0),
        "incarnation": row.get("incarnation", 0),
        "restarts": sum(r["group"] == group for r in list(metrics.restarts)),
        "ranks": [_rank(where, beat) for where, beat in places],
    }


def steps_of(places: Places) -> dict[str, int]:
    """Steps of each group, as its ranks reported them last."""
    return {
        group: max((beat.step for _, beat in of_group if beat), default=0)
        for group, of_group in places.items()
    }


def _rank(where: Location, beat: Heartbeat | None) -> dict[str, Any]:
    return {
        "rank": where.rank,
        "host": where.host,
        "node": where.node_id,
        "pid": where.pid,
        "gpus": list(where.gpu_ids),
        "phase": beat.phase if beat else "starting",
        "interval": beat.interval if beat else 0,
        "step": beat.step if beat else 0,
        "host_bytes": beat.host_bytes if beat else 0,
        "gpu_bytes": beat.gpu_bytes if beat else 0,
    }


@dataclass(frozen=True)
class Seen:
    """A run as its directory shows it.

    Attributes:
        state: `running`, `silent` where its driver died, how it ended, `starting` where it has no
            status yet, or `no run`.
        status: the file; empty where there is none.
        age_s: of the heartbeat, by this machine's clock.
    """

    state: str
    status: dict[str, Any]
    age_s: float = 0.0

    @property
    def driver(self) -> str:
        """Id of the driver that wrote it."""
        return str(self.status["driver"]["id"])

    def resume_command(self, run_dir: RunDir) -> str:
        """What continues the run where and as it ran."""
        in_process = self.status.get("driver", {}).get("in_process", False)
        return resume_command(run_dir.url, in_process)


def read_status(run_dir: RunDir) -> dict[str, Any]:
    """The file; empty where there is none.

    Raises:
        ConfigError: it can't be read, or is not a status of this version.
    """
    if not run_dir.exists(STATUS):
        return {}
    try:
        status = json.loads(run_dir.read(STATUS))
        if status["format"] != FORMAT:
            raise ConfigError(
                f"{run_dir.path(STATUS)}: format {status['format']}, this version reads {FORMAT}"
            )
        Driver(**status["driver"])
        Pulse(*(status[key] for key in ("at", "loop_at", "phase", "ended")))
        return dict(status)
    except (ValueError, KeyError, TypeError) as err:
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"{run_dir.path(STATUS)}: not a status: {err!r}") from err


def look(
    run_dir: RunDir,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> Seen:
    """The state of a run; waits some seconds where only that tells a dead driver from a living one.
    Ranks whose driver is dead are shown as such, whatever they reported last.

    Raises: ConfigError where its directory can't be read.
    """
    seen = _look(run_dir, wait, now)
    if not seen.status or seen.state == RunStatus.RUNNING:
        return seen
    phase = RunStatus.SILENT if seen.state == RunStatus.SILENT else ENDED
    return replace(seen, status=_with_ranks_that(phase, seen.status))


def _look(run_dir: RunDir, wait: Callable[[float], None], now: Callable[[], float]) -> Seen:
    status = read_status(run_dir)
    if not status:
        return Seen(_without_status(run_dir), {})
    age_s = now() - status["at"]
    if status["ended"]:
        return Seen(status["ended"], status, age_s)
    driver = Driver(**status["driver"])
    if driver.host == platform.node():
        if is_process(driver.pid, driver.pid_started):
            return Seen(RunStatus.RUNNING, status, age_s)
    elif -SKEW_S <= age_s <= FRESH_REFRESHES * driver.every_s + SKEW_S:
        return Seen(RunStatus.RUNNING, status, age_s)
    wait(LOOK_AGAIN_REFRESHES * driver.every_s)
    later = read_status(run_dir) or status
    if later["ended"]:
        return Seen(later["ended"], later, now() - later["at"])
    moved = (later["driver"]["id"], later["at"]) != (driver.id, status["at"])
    return Seen(RunStatus.RUNNING if moved else RunStatus.SILENT, later, now() - later["at"])


def _without_status(run_dir: RunDir) -> str:
    if run_dir.exists(SUMMARY):
        return str(json.loads(run_dir.read(SUMMARY)).get("status", "ended"))
    return RunStatus.STARTING if run_dir.exists(CONFIG) else RunStatus.NO_RUN


def is_process(pid: int, started: float) -> bool:
    """Whether that process runs on this machine."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
