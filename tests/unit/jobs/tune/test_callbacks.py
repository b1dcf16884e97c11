from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train._internal import storage
from ray.tune import Callback, TuneError
from ray.tune.experiment import Trial

from actors.wire import ConfigError, DivergedError
from jobs.tune.callbacks import NO_CAUSE, Relayed, ResultsCallback, cause_of, tracker_callbacks
from jobs.tune.results import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Exploit,
    TrialResult,
    TrialResults,
)
from jobs.tune.search import ASSIGNMENT, FINAL, INTERVAL
from orchestrator.run_dir.run_dir import RunDir
from tests.unit.jobs.tune.test_search import search

HELP = "heldout.help_loss"


class Watched:
    """Results of a search, and what was reported of them."""

    def __init__(self, folder: Path, before: tuple[TrialResult, ...] = ()) -> None:
        self.events: list[str] = []
        self.warnings: list[str] = []
        self.where = RunDir(str(folder / "s"))
        self.results = TrialResults(self.where, before)
        self.callback = ResultsCallback(
            search(folder, constraints=["losses.own + losses.help = 1"]),
            self.results,
            lambda what, result: self.events.append(what),
            self.warnings.append,
        )

    def hook(self, name: str, trial: Any, **more: Any) -> TrialResult:
        getattr(self.callback, name)(iteration=0, trials=[], trial=trial, **more)
        result = self.results.get(trial.config[ASSIGNMENT]["number"])
        assert result is not None
        return result

    def measured(self, trial: Any, loss: float, interval: int, final: bool = False) -> TrialResult:
        report = {HELP: loss, INTERVAL: interval, FINAL: final, "trial_id": "x", "done": False}
        return self.hook("on_trial_result", trial, result=report)


def trial(own: float = 0.25, **given: Any) -> Any:
    config = {ASSIGNMENT: {"number": 3, "point": {"losses.own": own}, **given}}
    return SimpleNamespace(config=config, error_file=None, pickled_error_file=None)


class LibraryError(RuntimeError):
    """Of a package that may not be installed where it is read."""


def raised(cause: Exception) -> RayTaskError:
    """What Ray raises where a trial raised that."""
    text = f"\x1b[36mray::ImplicitFunc.train()\x1b[39m\n  File x\n{type(cause).__name__}: {cause}\n"
    error = RayTaskError("train", text, cause).as_instanceof_cause()
    assert isinstance(error, RayTaskError)
    return error


@pytest.fixture
def tunes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial of Ray Tune's, whose files are on this machine and not yet in its storage."""
    monkeypatch.setattr(storage, "_get_ray_train_session_dir", lambda: str(tmp_path / "session"))
    where = storage.StorageContext(str(tmp_path / "storage"), "s", trial_dir_name="003")
    found = Trial("x", stub=True, storage=where, config=trial().config)
    found.init_local_path()
    return found


def test_a_trials_way_to_its_end_is_kept_as_it_goes(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    begun = watched.hook("on_trial_start", trial())
    assert (begun.status, begun.values) == (RUNNING, {"losses.own": 0.25, "losses.help": 0.75})
    watched.measured(trial(), 2.0, 2)
    watched.measured(trial(), 1.5, 8, final=True)
    ended = watched.hook("on_trial_complete", trial())
    assert (ended.status, ended.interval, ended.figures) == (FINISHED, 8, {HELP: 1.5})
    assert [(row[INTERVAL], row[HELP]) for row in ended.history] == [(2, 2.0), (8, 1.5)]
    assert watched.events == ["starts", "measured", "ended", FINISHED]
    kept = json.loads(watched.where.read("trials/003.json"))
    assert TrialResult.from_json(json.dumps(kept)) == ended


def test_a_trial_that_ends_before_its_last_report_was_stopped_early(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.hook("on_trial_start", trial())
    watched.measured(trial(), 2.0, 2)
    assert watched.hook("on_trial_complete", trial()).status == STOPPED


def test_what_is_measured_again_after_a_failure_counts_once(
    tmp_path: Path, tunes_own: Trial
) -> None:
    watched = Watched(tmp_path)
    watched.hook("on_trial_start", trial())
    watched.measured(trial(), 2.0, 2)
    watched.measured(trial(), 1.9, 4)
    tunes_own.handle_error(raised(ValueError("first\nlast")))
    failed = watched.hook("on_trial_recover", tunes_own)
    assert (failed.status, failed.failures) == (RUNNING, 1)
    assert failed.error == "ValueError: first last"
    watched.hook("on_trial_start", trial())
    again = watched.measured(trial(), 1.8, 4)
    assert [(row[INTERVAL], row[HELP]) for row in again.history] == [(2, 2.0), (4, 1.8)]
    tunes_own.handle_error(raised(DivergedError("data rank 0: loss is nan")))
    assert watched.hook("on_trial_error", tunes_own).status == FAILED
    assert watched.events[-2:] == ["measured", "failed: data rank 0: loss is nan"]
    assert json.loads(watched.where.read("trials/003.json"))["error"] == "data rank 0: loss is nan"


def test_an_exploit_is_noted_with_its_donor_and_the_new_values(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.hook("on_trial_start", trial())
    watched.measured(trial(), 2.0, 2)
    moved = watched.hook("on_trial_start", trial(0.5, **{"generation": 1, "donor": 7}))
    assert moved.moves == (Exploit(2, 7, {"losses.own": 0.5, "losses.help": 0.5}),)
    assert moved.point == {"losses.own": 0.5}
    assert watched.events[-1] == "goes on from 007"
    again = watched.hook("on_trial_start", trial(0.5, **{"generation": 1, "donor": 7}))
    assert again.moves == moved.moves


def test_an_earlier_starts_seconds_and_curve_count(tmp_path: Path) -> None:
    point = {"losses.own": 0.25}
    before = TrialResult(3, point, point, RUNNING, {HELP: 2.0}, 2, ({HELP: 2.0, INTERVAL: 2},),
                         seconds=100.0)  # fmt: skip
    watched = Watched(tmp_path, (before,))
    watched.hook("on_trial_start", trial())
    result = watched.measured(trial(), 1.5, 4)
    assert watched.events[0] == "goes on"
    assert result.seconds >= 100.0
    assert len(result.history) == 2


def test_storage_that_is_away_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path)

    def refuse(name: str, content: bytes | str) -> None:
        raise ConfigError(f"{name}: can't be written")

    monkeypatch.setattr(watched.where, "write", refuse)
    watched.hook("on_trial_start", trial())
    assert watched.warnings == [
        "trials/003.json: can't be written; the search goes on, and it is written again with the "
        "trial's news"
    ]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (raised(ConfigError("corpus: too\nsmall")), "corpus: too small"),
        (raised(KeyError("own")), "KeyError: 'own'"),
        (raised(TimeoutError()), "TimeoutError"),
        (raised(FileNotFoundError(2, "No such file", "x.txt")), "[Errno 2] No such file: 'x.txt'"),
        (
            ActorDiedError(),
            "ActorDiedError: The actor died unexpectedly before finishing this task.",
        ),
        (TuneError("first\nno room"), "no room"),
        (TuneError(""), NO_CAUSE),
    ],
)
def test_a_failed_trial_keeps_its_cause(error: Exception, cause: str, tunes_own: Trial) -> None:
    tunes_own.handle_error(raised(ValueError("an earlier try's")))
    tunes_own.handle_error(error)
    assert tunes_own.get_pickled_error() is None  # which is why the local files are read
    assert cause_of(tunes_own) == cause


def test_a_cause_that_cannot_be_unpickled_here_is_read_from_the_text(
    tunes_own: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunes_own.handle_error(raised(LibraryError("first\nno card")))
    assert cause_of(tunes_own) == "LibraryError: first no card"
    monkeypatch.delattr(f"{__name__}.LibraryError")
    assert cause_of(tunes_own).endswith("no card")
    assert "first" not in cause_of(tunes_own)


TRACKED = SimpleNamespace(trial_id="t")


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
    """Tune's events, with keywords as Tune calls them."""
    relayed.setup(stop=None, num_samples=1, total_num_samples=1)
    at: dict[str, Any] = {"iteration": 1, "trials": [], "trial": TRACKED}
    relayed.on_trial_start(**at)
    for value in (1, 2):
        relayed.on_trial_result(**at, result={"a": value})
    relayed.on_trial_complete(**at)
    relayed.on_experiment_end(trials=[TRACKED])
    relayed.close()


def test_everything_arrives_in_order() -> None:
    noting, warnings = Noting(), list[str]()
    play(Relayed("made-up", lambda: noting, 30.0, warnings.append))
    assert noting.calls == [
        ("setup", {}),
        ("start", TRACKED),
        ("result", {"a": 1}),
        ("result", {"a": 2}),
        ("complete", TRACKED),
        ("end", [TRACKED]),
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
