"""A run in the driver's own process: nothing to start, nothing to reserve, no store of its own.

Implements `orchestrator.runtime.Runtime`. Leaves torch's settings and global generators as they
were, for the notebook around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from actors.settings.run import GROUPS
from actors.wire import RankDescription
from orchestrator.in_process.groups import InProcessGroups
from orchestrator.in_process.host_store import HostStore
from orchestrator.in_process.settings import refuse_what_needs_processes, without_deadlines
from orchestrator.loop.ports import StoredPart
from orchestrator.runtime import Groups, Say, StopRequested
from orchestrator.settings.config import Config


class InProcessRuntime:
    """Both groups and the evaluator in this process.

    Args:
        config: the run.

    Raises:
        ConfigError: it needs processes; says which settings do.
    """

    starting = "reading the corpus"
    has_metrics = False

    def __init__(self, config: Config) -> None:
        refuse_what_needs_processes(config)
        self.store = HostStore()

    @contextmanager
    def session(self, config: Config, say: Say, warn: Say) -> Iterator[None]:
        """As `Runtime`, and so all others."""
        gpus = [config.group(group).workers.gpus for group in GROUPS] + [config.evaluation.gpus]
        cards = [torch.cuda.current_device()] if any(gpus) and torch.cuda.is_available() else []
        num_threads = torch.get_num_threads()
        deterministic = torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=cards):
            try:
                yield
            finally:
                torch.set_num_threads(num_threads)
                torch.use_deterministic_algorithms(deterministic)
                torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]

    @contextmanager
    def groups(
        self,
        config: Config,
        tokenizer_json: str,
        stored_part: StoredPart,
        stop_requested: StopRequested,
        waiting: Say,
    ) -> Iterator[InProcessGroups]:
        """There is always room for them."""
        yield InProcessGroups(config, tokenizer_json, self.store)

    def refuse_too_large(
        self, config: Config, descriptions: Mapping[str, Sequence[RankDescription]]
    ) -> None:
        """Nothing: host memory has no share set aside for snapshots."""

    def loop_config(self, config: Config) -> Config:
        """Without deadlines and restarts."""
        return without_deadlines(config)

    def notice(self, groups: Groups, config: Config) -> StopRequested:
        """None ever comes."""
        return lambda: None
