"""Writes committed pairs in the background and removes those that are no longer kept.

A write that fails is a warning: training goes on, and the next pair is written as usual. Of pairs
that come faster than they can be written only the newest waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from actors.wire import ConfigError, StorageError
from orchestrator.background import Background
from orchestrator.loop.exchange import PairCheckpoint
from orchestrator.loop.ports import ObjectStore
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.metrics import SavedRows
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import CheckpointSpec


class CheckpointWriter:
    """A thread that writes pairs.

    Args:
        run_dir: where to.
        spec: what to keep.
        warn: called with a message for each pair that could not be written.
        store: has the pairs' parts.
        newest: interval of the pair that the run goes on from, which is written; None: it begins.
    """

    def __init__(
        self,
        run_dir: RunDir,
        spec: CheckpointSpec,
        warn: Callable[[str], None],
        store: ObjectStore,
        newest: int | None = None,
    ) -> None:
        self._run_dir, self._spec, self._warn, self._store = run_dir, spec, warn, store
        self._figures: dict[int, float] = {}  # by interval, of those that were measured
        self._waiting: deque[tuple[PairCheckpoint, SavedRows]] = deque(maxlen=1)
        self.num_written = self.num_bytes = 0
        self.last_interval = newest
        self._worker = Background("checkpoints", self._failed)

    def write(self, pair: PairCheckpoint, rows: SavedRows) -> None:
        """Takes a pair and returns at once."""
        self._waiting.append((pair, rows))
        self._worker.put(self._write_newest)

    def measured(self, interval: int, figures: dict[str, float]) -> None:
        """Takes what an evaluation found of the pair of that interval."""
        if (value := figures.get(self._spec.best_by)) is not None:
            self._figures[interval] = value

    @property
    def is_alive(self) -> bool:
        """Whether the thread still takes pairs."""
        return self._worker.is_alive

    def close(self) -> None:
        """Writes what is waiting and ends the thread; gives up where the storage hangs."""
        patience_s = self._run_dir.patience_s
        if not self._worker.close(patience_s, lambda: self._run_dir.num_writes):
            last = "none" if self.last_interval is None else f"of interval {self.last_interval}"
            self._warn(
                f"{self._run_dir.url} hangs: nothing was written for {patience_s:g} s, so the "
                f"newest checkpoint is given up (the last one written: {last}); look at the storage"
            )

    def _write_newest(self) -> None:
        if not self._waiting:  # a newer pair took this one's place, and is written already
            return
        pair, rows = self._waiting.popleft()
        try:
            self.num_bytes += checkpoints.save(self._run_dir, pair, rows, self._store)
            self.num_written += 1
            self.last_interval = pair.interval
            self._remove_superfluous()
        except (ConfigError, StorageError, OSError) as err:
            self._warn(
                f"the checkpoint of interval {pair.interval} could not be written ({err}); "
                "training goes on, the one before is kept"
            )
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Makes room: what was written of a pair would fill the disk to the end of the run."""
        with suppress(ConfigError, StorageError, OSError):  # it is away: the next driver does it
            checkpoints.remove_unfinished(self._run_dir)

    def _failed(self, err: Exception) -> None:
        self._warn(f"a checkpoint failed ({err!r}); training goes on, the one before is kept")

    def _remove_superfluous(self) -> None:
        stored = checkpoints.intervals(self._run_dir)
        for interval in superfluous(stored, dict(self._figures), self._spec):
            checkpoints.remove(self._run_dir, interval)


def superfluous(stored: list[int], figures: dict[int, float], spec: CheckpointSpec) -> list[int]:
    """Pairs that are neither among the newest nor among the best.

    Args:
        stored: intervals of all pairs, ascending.
        figures: by interval, for those that were measured.
        spec: how many to keep.
    """
    kept = set(stored[-spec.keep_last :])
    known = [i for i in stored if i in figures]
    sign = 1 if spec.best_is == "min" else -1
    kept.update(sorted(known, key=lambda i: (sign * figures[i], -i))[: spec.keep_best])
    return [i for i in stored if i not in kept]
