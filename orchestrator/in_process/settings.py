"""Which settings a run in one process refuses, and by which its loop decides. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from actors.settings.run import GROUPS
from actors.wire import ConfigError
from orchestrator.settings.config import Config, DeadlineSpec, RecoverySpec

LOCAL = "local"  # `ray.address` of a Ray for the run alone
YEAR_S = 365 * 86400.0  # longer than anybody stays at a breakpoint; deadlines are finite


def refuse_what_needs_processes(config: Config) -> None:
    """Raises: ConfigError, a line for each setting that one process can't do."""
    if lines := list(_needing_processes(config)):
        raise ConfigError(
            "this run needs processes and can't be in process:\n  "
            + "\n  ".join(lines)
            + "\nset these as said, or leave out --in-process (in_process=True)"
        )


def _needing_processes(config: Config) -> Iterator[str]:
    for group in GROUPS:
        workers = config.group(group).workers
        if workers.num_workers > 1:
            yield f"{group}.workers.num_workers is {workers.num_workers}; at most 1"
        if workers.node_labels:
            yield f"{group}.workers.node_labels asks for other nodes; leave it empty"
    if config.evaluation.node_labels:
        yield "evaluation.node_labels asks for other nodes; leave it empty"
    if config.exchange.mode != "lockstep":
        yield f"exchange.mode is {config.exchange.mode}; lockstep only"
    gpus = {f"{group}.workers.gpus": config.group(group).workers.gpus for group in GROUPS}
    gpus["evaluation.gpus"] = config.evaluation.gpus
    if (total := sum(gpus.values())) > 1:
        asked = " + ".join(f"{key} {num:g}" for key, num in gpus.items() if num)
        yield f"{asked} is {total:g} GPUs; at most 1 in all, shared by fractions"
    if config.recovery.warm_spares:
        yield "recovery.warm_spares is true; nothing is restarted"
    if config.ray.address not in (None, LOCAL):
        yield f"ray.address is {config.ray.address}; no Ray is joined"


def without_deadlines(config: Config) -> Config:
    """The config for the loop: no restart, and no deadline that a breakpoint could pass.

    What hangs can be seen and interrupted in a process that a person looks at.
    """
    late = dict.fromkeys(("first_interval_s", "interval_floor_s", "evaluation_s"), YEAR_S)
    deadlines = DeadlineSpec(**{**config.deadlines.model_dump(), **late})
    recovery = RecoverySpec(**{**config.recovery.model_dump(), "max_failures": 0})
    return config.model_copy(update={"deadlines": deadlines, "recovery": recovery})
