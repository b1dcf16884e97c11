"""Writes committed pairs in the background and lets old ones go.

A write that fails is a warning: training goes on, and the next pair is written as usual. Of pairs
that come faster than they can be written only the newest waits. Called by `run`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from actors.wire import ConfigError, StorageError
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
        warn: receives pairs that could not be written.
        store: has the pairs' parts.
    """

    def __init__(
        self,
        run_dir: RunDir,
        spec: CheckpointSpec,
        warn: Callable[[str], None],
        store: ObjectStore,
    ) -> None:
        self._run_dir, self._spec, self._warn, self._store = run_dir, spec, warn, store
        self._figures: dict[int, float] = {}  # by interval, of those that were measured
        self._waiting: tuple[PairCheckpoint, SavedRows] | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.num_written = self.num_bytes = 0
        self.last_interval: int | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def write(self, pair: PairCheckpoint, rows: SavedRows) -> None:
        """Takes a pair and returns at once."""
        with self._changed:
            self._waiting = (pair, rows)
            self._changed.notify()

    def measured(self, interval: int, figures: dict[str, float]) -> None:
        """Tells what an evaluation found of the pair of that interval."""
        value = figures.get(self._spec.best_by)
        with self._changed:
            if value is not None:
                self._figures[interval] = value

    @property
    def is_alive(self) -> bool:
        """Whether the thread still takes pairs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Writes what is waiting and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                if self._waiting is None:
                    return
                (pair, rows), self._waiting = self._waiting, None
            try:
                self.num_bytes += checkpoints.save(self._run_dir, pair, rows, self._store)
                self.num_written += 1
                self.last_interval = pair.interval
                self._let_go()
            except (ConfigError, StorageError, OSError) as err:
                self._warn(
                    f"the checkpoint of interval {pair.interval} could not be written ({err}); "
                    "training goes on, the one before is kept"
                )
            except Exception as err:  # the thread's border: a failed copy must not end training
                self._warn(f"the checkpoint of interval {pair.interval} failed: {err!r}")

    def _let_go(self) -> None:
        there = checkpoints.intervals(self._run_dir)
        with self._changed:
            figures = dict(self._figures)
        for interval in superfluous(there, figures, self._spec):
            checkpoints.remove(self._run_dir, interval)


def superfluous(there: list[int], figures: dict[int, float], spec: CheckpointSpec) -> list[int]:
    """Pairs that are neither among the newest nor among the best.

    Args:
        there: intervals of all pairs, ascending.
        figures: by interval, for those that were measured.
        spec: how many to keep.
    """
    kept = set(there[-spec.keep_last :])
    known = [i for i in there if i in figures]
    sign = 1 if spec.best_is == "min" else -1
    kept.update(sorted(known, key=lambda i: (sign * figures[i], -i))[: spec.keep_best])
    return [i for i in there if i not in kept]
