from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback

from jobs.tune.trackers import Relayed, tracker_callbacks
from tests.unit.jobs.tune.test_spec import search

TRIAL = SimpleNamespace(trial_id="t")


class Noting(Callback):  # type: ignore[misc]
    def __init__(self, fail_at: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self._fail_at = fail_at

    def _note(self, hook: str, given: Any) -> None:
        if hook == self._fail_at:
            raise ConnectionError("no route to host\nand more")
        self.calls.append((hook, given))

    def setup(self, *args: Any, **info: Any) -> None:
        self._note("setup", info)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note("start", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        self._note("result", result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note("complete", trial)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._note("end", trials)


def play(relayed: Relayed) -> None:
    relayed.setup(stop=None, num_samples=1)
    relayed.on_trial_start(1, [], TRIAL)
    for value in (1, 2):
        relayed.on_trial_result(1, [], TRIAL, {"a": value})
    relayed.on_trial_complete(1, [], TRIAL)
    relayed.on_experiment_end([TRIAL])
    relayed.close()


def test_everything_arrives_in_order() -> None:
    noting, warnings = Noting(), list[str]()
    play(Relayed("made-up", lambda: noting, 30.0, warnings.append))
    assert noting.calls == [
        ("setup", {}),
        ("start", TRIAL),
        ("result", {"a": 1}),
        ("result", {"a": 2}),
        ("complete", TRIAL),
        ("end", [TRIAL]),
    ]
    assert warnings == []


def test_a_tracker_that_fails_is_one_warning_and_nothing_more() -> None:
    noting, warnings = Noting(fail_at="result"), list[str]()
    play(Relayed("made-up", lambda: noting, 30.0, warnings.append))
    assert warnings == [
        "trackers.made-up: no route to host; the search goes on without it, and its own files "
        "hold all figures"
    ]
    assert [hook for hook, _ in noting.calls] == ["setup", "start"]


def test_a_tracker_that_can_not_be_made_is_a_warning() -> None:
    def fail() -> Callback:
        raise OSError("unreachable")

    warnings = list[str]()
    play(Relayed("made-up", fail, 30.0, warnings.append))
    assert len(warnings) == 1
    assert "trackers.made-up: unreachable" in warnings[0]


def test_a_tracker_that_hangs_holds_nothing_up() -> None:
    released, warnings = threading.Event(), list[str]()

    class Hanging(Noting):
        def on_trial_start(self, *args: Any, **info: Any) -> None:
            released.wait(60.0)

    began = time.monotonic()
    play(Relayed("made-up", Hanging, 0.3, warnings.append))
    assert time.monotonic() - began < 20.0
    assert len(warnings) == 1
    assert "trackers.made-up: did not take all figures within 0.3 s" in warnings[0]
    released.set()


def test_each_tracker_is_one_line_of_the_search(tmp_path: Path) -> None:
    found = search(tmp_path, trackers={"tensorboard": True})
    warnings = list[str]()
    with tracker_callbacks(found, warnings.append) as callbacks:
        assert len(callbacks) == 1
    with tracker_callbacks(search(tmp_path), warnings.append) as callbacks:
        assert callbacks == []
    assert warnings == []
