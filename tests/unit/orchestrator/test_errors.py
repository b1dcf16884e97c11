from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

import actors.wire  # noqa: F401  the errors defined there are subclasses too
from actors.wire import ConfigError, TandemError
from orchestrator import errors


def all_errors(base: type[TandemError] = TandemError) -> Iterator[type[TandemError]]:
    yield base
    for subclass in base.__subclasses__():
        if not subclass.__module__.startswith("ray."):  # which derives classes of its own from ours
            yield from all_errors(subclass)


@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=lambda kind: kind.__name__))
def test_an_error_survives_pickling_with_its_type_and_message(kind: type[TandemError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("memory rank 1: what happened")))
    assert type(copy) is kind
    assert str(copy) == "memory rank 1: what happened"


def test_every_error_of_the_driver_is_one_of_ours() -> None:
    ours = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(ours) >= 5
    assert all(issubclass(kind, TandemError) for kind in ours)


@pytest.mark.parametrize(
    "kind", [errors.PlacementError, errors.StoreTooSmallError, errors.RunExistsError]
)
def test_what_the_user_can_put_right_is_a_config_error(kind: type[TandemError]) -> None:
    assert issubclass(kind, ConfigError)
    assert issubclass(kind, ValueError)


@pytest.mark.parametrize("kind", [errors.GroupFailedError, errors.InterruptedRunError])
def test_what_happens_to_a_run_is_no_config_error(kind: type[TandemError]) -> None:
    assert not issubclass(kind, ConfigError)
