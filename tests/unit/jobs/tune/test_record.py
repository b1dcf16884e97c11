from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train._internal import storage
from ray.tune import TuneError
from ray.tune.experiment import Trial

from actors.wire import ConfigError, DivergedError
from jobs.tune.record import NO_CAUSE, SearchRecord, cause_of
from jobs.tune.results import FAILED, FINISHED, RUNNING, STOPPED, Move, TrialResult
from jobs.tune.trial import DONOR, FINAL, GENERATION, GIVEN, INTERVAL, NUMBER, POINT
from orchestrator.run_dir.run_dir import RunDir
from tests.unit.jobs.tune.test_spec import search

HELP = "heldout.help_loss"


class Told:
    """A record of a search, and what was said."""

    def __init__(self, folder: Path, before: tuple[TrialResult, ...] = ()) -> None:
        self.events: list[str] = []
        self.warnings: list[str] = []
        self.where = RunDir(str(folder / "s"))
        self.record = SearchRecord(
            search(folder, constraints=["losses.own + losses.help = 1"]),
            self.where,
            before,
            lambda what, result: self.events.append(what),
            self.warnings.append,
        )

    def hook(self, name: str, trial: Any, **more: Any) -> TrialResult:
        getattr(self.record, name)(0, [], trial, **more)
        (result,) = [r for r in self.record.results if r.number == trial.config[GIVEN][NUMBER]]
        return result

    def measured(self, trial: Any, loss: float, interval: int, final: bool = False) -> TrialResult:
        report = {HELP: loss, INTERVAL: interval, FINAL: final, "trial_id": "x", "done": False}
        return self.hook("on_trial_result", trial, result=report)


def trial(own: float = 0.25, **given: Any) -> Any:
    config = {GIVEN: {NUMBER: 3, POINT: {"losses.own": own}, **given}}
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
    told = Told(tmp_path)
    begun = told.hook("on_trial_start", trial())
    assert (begun.status, begun.values) == (RUNNING, {"losses.own": 0.25, "losses.help": 0.75})
    told.measured(trial(), 2.0, 2)
    told.measured(trial(), 1.5, 8, final=True)
    ended = told.hook("on_trial_complete", trial())
    assert (ended.status, ended.interval, ended.figures) == (FINISHED, 8, {HELP: 1.5})
    assert [(row[INTERVAL], row[HELP]) for row in ended.history] == [(2, 2.0), (8, 1.5)]
    assert told.events == ["starts", "measured", "ended", FINISHED]
    kept = json.loads(told.where.read("trials/003.json"))
    assert TrialResult.from_json(json.dumps(kept)) == ended


def test_a_trial_that_ends_before_its_last_report_was_stopped_early(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.hook("on_trial_start", trial())
    told.measured(trial(), 2.0, 2)
    assert told.hook("on_trial_complete", trial()).status == STOPPED


def test_what_is_measured_again_after_a_failure_counts_once(
    tmp_path: Path, tunes_own: Trial
) -> None:
    told = Told(tmp_path)
    told.hook("on_trial_start", trial())
    told.measured(trial(), 2.0, 2)
    told.measured(trial(), 1.9, 4)
    tunes_own.handle_error(raised(ValueError("first\nlast")))
    failed = told.hook("on_trial_recover", tunes_own)
    assert (failed.status, failed.failures) == (RUNNING, 1)
    assert failed.error == "ValueError: first last"
    told.hook("on_trial_start", trial())
    again = told.measured(trial(), 1.8, 4)
    assert [(row[INTERVAL], row[HELP]) for row in again.history] == [(2, 2.0), (4, 1.8)]
    tunes_own.handle_error(raised(DivergedError("data rank 0: loss is nan")))
    assert told.hook("on_trial_error", tunes_own).status == FAILED
    assert told.events[-2:] == ["measured", "failed: data rank 0: loss is nan"]
    assert json.loads(told.where.read("trials/003.json"))["error"] == "data rank 0: loss is nan"


def test_a_move_is_noted_with_its_donor_and_the_new_values(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.hook("on_trial_start", trial())
    told.measured(trial(), 2.0, 2)
    moved = told.hook("on_trial_start", trial(0.5, **{GENERATION: 1, DONOR: 7}))
    assert moved.moves == (Move(2, 7, {"losses.own": 0.5, "losses.help": 0.5}),)
    assert moved.point == {"losses.own": 0.5}
    assert told.events[-1] == "goes on from 007"
    again = told.hook("on_trial_start", trial(0.5, **{GENERATION: 1, DONOR: 7}))
    assert again.moves == moved.moves


def test_an_earlier_starts_seconds_and_curve_count(tmp_path: Path) -> None:
    point = {"losses.own": 0.25}
    before = TrialResult(3, point, point, RUNNING, {HELP: 2.0}, 2, ({HELP: 2.0, INTERVAL: 2},),
                         seconds=100.0)  # fmt: skip
    told = Told(tmp_path, (before,))
    told.hook("on_trial_start", trial())
    result = told.measured(trial(), 1.5, 4)
    assert told.events[0] == "goes on"
    assert result.seconds >= 100.0
    assert len(result.history) == 2


def test_storage_that_is_away_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path)

    def refuse(name: str, content: bytes | str) -> None:
        raise ConfigError(f"{name}: can't be written")

    monkeypatch.setattr(told.where, "write", refuse)
    told.hook("on_trial_start", trial())
    assert told.warnings == [
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
