"""What ranks that are not ready in time are doing: which, and how far each has come.

Called by `launch` when the deadline of a start has passed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from actors.wire import Beat
from orchestrator.errors import GroupFailedError

ANSWER_S = 3.0  # for a rank to say what it does; beside its main thread
NAMED = 4  # ranks in a message

Who = tuple[str, int]  # group and rank


def late_start(
    late: Sequence[Who], processes: Mapping[Who, tuple[Any, Any]], what: str, after_s: float
) -> GroupFailedError:
    """The error of a start that took too long.

    Args:
        late: ranks that are waited for.
        processes: of every rank the actor, and the ref of where its process is; None: not asked.
        what: did not happen, of each of them.
        after_s: the deadline.
    """
    asked = {who: processes[who][0].beat.remote() for who in late[:NAMED] if who in processes}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    lines = [
        f"{group} rank {rank}: {_doing(asked.get((group, rank)), processes.get((group, rank)))}"
        for group, rank in late[:NAMED]
    ]
    if len(late) > NAMED:
        lines.append(f"and {len(late) - NAMED} more")
    group, rank = late[0]
    return GroupFailedError(
        f"{group} rank {rank}: {what} after {after_s:g} s (waiting for {'; '.join(lines)}); raise "
        "deadlines.start_s, or look at the load of the node and, on a busy one, at "
        "ray.worker_niceness"
    )


def _doing(beat_ref: Any, process: tuple[Any, Any] | None) -> str:
    if beat_ref is None or process is None:
        return "its process has ended"
    if not _is_in(beat_ref):
        locating = process[1]
        if locating is not None and _is_in(locating):
            return f"its process does not answer within {ANSWER_S:g} s; it hangs or gets no CPU"
        return "Ray has not started its process yet"
    try:
        beat: Beat = ray.get(beat_ref)
    except Exception as err:  # the process died just now
        return f"its process has ended ({type(err).__name__})"
    return f"{beat.phase}, for {max(0.0, time.time() - beat.at):.0f} s"


def _is_in(ref: Any) -> bool:
    ready, _ = ray.wait([ref], timeout=0)
    return bool(ready)
