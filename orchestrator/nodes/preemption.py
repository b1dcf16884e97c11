"""The notice that a node of the run will be taken away, as a reason to stop in time.

Clouds announce it seconds to minutes before; Ray calls such a node draining.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from orchestrator.nodes.private_ray import draining_nodes

POLL_S = 2.0


class Preemption:
    """Looks for draining nodes among those of the run.

    Args:
        node_ids: the nodes on which the run has processes now.
        then: the command that goes on from the newest checkpoint.
        draining: ids of draining nodes, with deadlines in milliseconds since the epoch; 0: none.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node_ids: Callable[[], Collection[str]],
        then: str,
        draining: Callable[[], Mapping[str, int]] = draining_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_ids, self._then = node_ids, then
        self._draining, self._clock = draining, clock
        self._next_look = 0.0
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Why the run should end, or None; asks Ray every other second."""
        now = self._clock()
        if self._reason is not None or now < self._next_look:
            return self._reason
        self._next_look = now + POLL_S
        ours = {n: at for n, at in self._draining().items() if n in self._node_ids()}
        if ours:
            node, deadline_ms = next(iter(ours.items()))
            left = f" in {deadline_ms / 1000 - time.time():.0f} s" if deadline_ms else ""
            self._reason = (
                f"stopped because node {node[:12]} is taken away{left}; both groups were ended; "
                f"{self._then} goes on from the newest checkpoint"
            )
        return self._reason
