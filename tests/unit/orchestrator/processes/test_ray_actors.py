from __future__ import annotations

import os
import pickle

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.wire import ConfigError, DivergedError, TandemError
from orchestrator.errors import GroupFailedError, as_group_error, root_cause
from orchestrator.processes.local_process import is_actor
from orchestrator.processes.ray_actors import Rank
from tests.unit.orchestrator.scripted import a_config


def as_ray_raises(cause: Exception) -> BaseException:
    """`cause` as `ray.get` raises it: an error of both types, the traceback as its text."""
    task_error = RayTaskError("interval", f"Traceback …\n{cause!r}", cause)
    return task_error.as_instanceof_cause()


def test_the_root_cause_is_what_the_remote_code_raised() -> None:
    cause = DivergedError("data rank 0: loss is nan")
    assert root_cause(as_ray_raises(cause)) is cause


def test_the_root_cause_of_an_error_without_one_is_itself() -> None:
    error = ValueError("x")
    assert root_cause(error) is error


@pytest.mark.parametrize("kind", [DivergedError, ConfigError])
def test_an_error_of_ours_keeps_type_and_message(kind: type[TandemError]) -> None:
    error = as_group_error("data", 0, as_ray_raises(kind("data rank 0: mine")), "in interval 3")
    assert type(error) is kind
    assert str(error) == "data rank 0: mine"


@pytest.mark.parametrize(
    "raised", [as_ray_raises(RuntimeError("boom")), RuntimeError("boom")], ids=["ray", "plain"]
)
def test_any_other_error_names_group_rank_when_and_cause(raised: BaseException) -> None:
    error = as_group_error("memory", 2, raised, "in interval 3")
    assert type(error) is GroupFailedError
    assert str(error) == "memory rank 2 failed in interval 3: RuntimeError: boom"


def test_a_dead_actor_is_its_groups_failure() -> None:
    error = as_group_error("memory", 0, ActorDiedError(), "in interval 3")
    assert type(error) is GroupFailedError
    assert str(error).startswith("memory rank 0 failed in interval 3: ActorDiedError: ")


def test_an_actor_that_could_not_be_made_names_what_its_constructor_raised() -> None:
    raised = RayTaskError("__init__", "Traceback …\n…", ModuleNotFoundError("No module named 'x'"))
    raised.traceback_str += "\nModuleNotFoundError: No module named 'x'"
    error = as_group_error("data", 0, ActorDiedError(raised), "while starting")
    assert "ModuleNotFoundError: No module named 'x'" in str(error)


def test_only_the_first_line_of_a_long_cause_is_reported() -> None:
    error = as_group_error("data", 0, RuntimeError("first\nsecond"), "while starting")
    assert str(error) == "data rank 0 failed while starting: RuntimeError: first"


def test_a_cause_without_words_is_reported_by_its_type() -> None:
    assert str(as_group_error("data", 0, MemoryError(), "while starting")).endswith("MemoryError")


def test_a_group_error_survives_pickling() -> None:
    error = as_group_error("data", 0, as_ray_raises(RuntimeError("boom")), "in interval 3")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))


def test_a_process_that_is_not_ours_is_not_taken_for_a_rank() -> None:
    assert not is_actor(os.getpid())


class Built:
    """What a rank builds: only how it was asked to."""

    def __init__(self, *arguments: object) -> None:
        *_, self.rank, self.num_ranks, self.incarnation, begin = arguments
        begin("building its layers")  # type: ignore[operator]

    def description(self) -> dict[str, object]:
        sizes = ("num_parameters", "snapshot_bytes", "wire_bytes", "checkpoint_bytes")
        return {"device": "cpu", "layout_hash": "", **dict.fromkeys(sizes, 0)}


def test_a_spare_that_takes_over_in_a_resized_group_has_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.processes.ray_actors._trainer_class", lambda *_: Built)
    rank = Rank(a_config(), "", "run", "data", 0, 1)
    rank.take_over("", 3)
    rank.start(2)
    assert (rank._trainer.rank, rank._trainer.num_ranks, rank._trainer.incarnation) == (0, 3, 2)


def test_a_rank_that_starts_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank(a_config(), "", "run", "data", 0, 1)
    phases = [rank.beat().phase]

    class Asked(Built):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            phases.append(rank.beat().phase)

    def imported(spec: object, group: str) -> type[Built]:
        phases.append(rank.beat().phase)
        return Asked

    monkeypatch.setattr("orchestrator.processes.ray_actors._trainer_class", imported)
    rank.start(0)
    assert phases == ["waiting to start", "importing torch and the trainer", "building its layers"]
