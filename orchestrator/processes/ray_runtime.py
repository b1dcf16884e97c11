"""A run on Ray: the session, the reserved resources, the object store, the notice that a node goes.

Implements `orchestrator.runtime.Runtime`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group

from actors.machine.host_memory import ByteArray
from actors.settings.run import GROUPS
from actors.wire import RankDescription
from orchestrator.loop.exchange import check_fits
from orchestrator.loop.ports import StoredPart
from orchestrator.nodes.placement import Seats, reserve
from orchestrator.nodes.preemption import Preemption
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.processes.ray_session import ray_session
from orchestrator.runtime import Groups, Say, StopRequested
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import resume_command


class RayStore:
    """Ray's object store."""

    def get(self, ref: Any) -> ByteArray:
        """The array that a ref stands for; waits for it."""
        array: ByteArray = ray.get(ref)
        return array

    def put(self, array: ByteArray) -> Any:
        """Keeps an array; returns its ref."""
        return ray.put(array)


class RayRuntime:
    """A process per rank, on the Ray that is there or on one for this run alone.

    Args:
        seats: a placement group with `placement.bundles(config)`, e.g. a Tune trial's; default:
            made and removed.
        verbose: let Ray's own messages through.
    """

    starting = "reading the corpus and starting Ray"
    has_metrics = True

    def __init__(self, seats: Seats | None, verbose: bool) -> None:
        self._seats, self._verbose = seats, verbose
        self.store = RayStore()

    def session(self, config: Config, say: Say, warn: Say) -> AbstractContextManager[None]:
        """As `Runtime`, and so all others."""
        return ray_session(config, self._verbose, say, warn)

    @contextmanager
    def groups(
        self,
        config: Config,
        tokenizer_json: str,
        stored_part: StoredPart,
        stop_requested: StopRequested,
        waiting: Say,
    ) -> Iterator[RayCluster]:
        """Leaves no actor and no placement group of its own."""
        own = None if self._seats else reserve(config, stop_requested, waiting)
        cluster = RayCluster(config, tokenizer_json, self._seats or Seats(own), stored_part)
        try:
            yield cluster
        finally:
            cluster.stop()
            if own is not None:
                remove_placement_group(own)

    def refuse_too_large(
        self, config: Config, descriptions: Mapping[str, Sequence[RankDescription]]
    ) -> None:
        """Compares with the whole cluster's object store."""
        first = {group: descriptions[group][0] for group in GROUPS}
        snapshots = {group: d.snapshot_bytes + d.said_bytes for group, d in first.items()}
        saved = {group: d.checkpoint_bytes for group, d in first.items()}
        store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
        check_fits(snapshots, saved, config.retention, store_bytes)

    def loop_config(self, config: Config) -> Config:
        """The run's own."""
        return config

    def notice(self, groups: Groups, config: Config) -> Callable[[], str | None]:
        """That a node with a process of the run is taken away."""
        assert isinstance(groups, RayCluster)
        return Preemption(groups.node_ids, resume_command(config.run_url)).reason
