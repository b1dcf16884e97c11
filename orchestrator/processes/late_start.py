"""The error of a start that took too long: which ranks are not ready, and what each is doing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.wire import Heartbeat
from orchestrator.errors import GroupFailedError

ANSWER_S = 3.0  # for a heartbeat, which does not need the rank's main thread
MAX_NAMED = 4  # ranks in a message

GroupRank = tuple[str, int]


def late_start(
    late: Sequence[GroupRank],
    processes: Mapping[GroupRank, tuple[ActorHandle, ObjectRef | None]],
    what: str,
    after_s: float,
) -> GroupFailedError:
    """The error of a start that took too long.

    Args:
        late: ranks that are waited for.
        processes: by rank, the actor and the ref of its `Location`; None: not asked for.
        what: the step that was not done, e.g. "was not ready".
        after_s: the deadline.
    """
    beat_refs = {
        rank: processes[rank][0].beat.remote() for rank in late[:MAX_NAMED] if rank in processes
    }
    if beat_refs:
        ray.wait(list(beat_refs.values()), num_returns=len(beat_refs), timeout=ANSWER_S)
    lines = [
        f"{key[0]} rank {key[1]}: {_activity(beat_refs.get(key), processes.get(key))}"
        for key in late[:MAX_NAMED]
    ]
    if len(late) > MAX_NAMED:
        lines.append(f"and {len(late) - MAX_NAMED} more")
    group, rank = late[0]
    return GroupFailedError(
        f"{group} rank {rank}: {what} after {after_s:g} s (waiting for {'; '.join(lines)}); raise "
        "deadlines.start_s, or look at the load of the node and, on a busy one, at "
        "ray.worker_niceness"
    )


def _activity(
    beat_ref: ObjectRef | None, process: tuple[ActorHandle, ObjectRef | None] | None
) -> str:
    if beat_ref is None or process is None:
        return "its process has ended"
    if not _is_ready(beat_ref):
        location_ref = process[1]
        if location_ref is not None and _is_ready(location_ref):
            return f"its process does not answer within {ANSWER_S:g} s; it hangs or gets no CPU"
        return "Ray has not started its process yet"
    try:
        beat: Heartbeat = ray.get(beat_ref)
    except RayError as err:  # the process died just now
        return f"its process has ended ({type(err).__name__})"
    return f"{beat.phase}, for {max(0.0, time.time() - beat.at):.0f} s"


def _is_ready(ref: ObjectRef) -> bool:
    ready, _ = ray.wait([ref], timeout=0)
    return bool(ready)
