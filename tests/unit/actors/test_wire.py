"""The messages: all of them cross processes unharmed."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from actors import wire
from actors.wire import Range

SAMPLES: dict[str, Any] = {
    "str": "x",
    "int": 3,
    "float": 0.5,
    "bool": True,
    "float | None": 0.25,
    "str | None": "profiles",
    "tuple[tuple[str, str, int], ...]": (("parameters", "torch.uint8", 64),),
    "dict[str, float]": {"own": 1.5},
    "tuple[int, ...]": (0, 64),
    "tuple[str, ...]": ("0", "1"),
    "tuple[Range, ...]": (Range(0, 1, 2), Range(1, 0, 5)),
    "tuple[ToldAssociation, ...]": (wire.ToldAssociation("q", "a", ("b",)),),
    "tuple[Told, ...]": (wire.Told("w", 0.5, ()),),
    "tuple[LiveLesson, ...]": (wire.LiveLesson("q", "a", ("b",), "s"),),
    "tuple[Answer, ...]": (wire.Answer("q", "a", "b", "c", "d"),),
}
SAMPLES["tuple[LessonAnswer, ...]"] = (
    wire.LessonAnswer("q", "a", "b", "c", "d", "e", ("own",), 2, 1, True, False, 4.5),
)
SAMPLES["tuple[LostAnswer, ...]"] = (wire.LostAnswer("q", "a", "b"),)
SAMPLES["Taught | None"] = wire.Taught(
    SAMPLES["tuple[LessonAnswer, ...]"], 3, 1, SAMPLES["tuple[LostAnswer, ...]"], (), ()
)
MESSAGES = [c for _, c in inspect.getmembers(wire, dataclasses.is_dataclass)]
ERRORS = [
    c
    for _, c in inspect.getmembers(wire, inspect.isclass)
    if issubclass(c, Exception) and c.__module__ == wire.__name__
]


def sample(message: type) -> Any:
    return message(*(SAMPLES[str(field.type)] for field in dataclasses.fields(message)))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_pickling(message: type) -> None:
    before = sample(message)
    assert pickle.loads(pickle.dumps(before)) == before


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_frozen(message: type) -> None:
    name = dataclasses.fields(message)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sample(message), name, None)


def test_there_are_messages_and_errors() -> None:
    assert {"Order", "Header", "Report", "Heartbeat"} <= {m.__name__ for m in MESSAGES}
    assert {"TandemError", "DivergedError", "OrderError"} <= {e.__name__ for e in ERRORS}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_survives_pickling(error: type[Exception]) -> None:
    before = error("data rank 1: something happened")
    after = pickle.loads(pickle.dumps(before))
    assert (type(after), after.args, str(after)) == (error, before.args, str(before))


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_a_tandem_error(error: type[Exception]) -> None:
    assert issubclass(error, wire.TandemError)


@pytest.mark.parametrize("error", [wire.ConfigError, wire.CorpusError])
def test_what_a_user_can_mend_is_a_value_error(error: type[Exception]) -> None:
    assert issubclass(error, ValueError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (wire.DivergedError("data rank 0:\n  the loss is nan"), "data rank 0: the loss is nan"),
        (wire.ConfigError(""), "ConfigError"),
        (KeyError("own"), "KeyError: 'own'"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left", "x"), "[Errno 28] No space left: 'x'"),
        (FileNotFoundError("bucket/x"), "FileNotFoundError: bucket/x"),
        (ValueError("x" * 9000), f"ValueError: {'x' * wire.CAUSE_CHARS} …"),
    ],
)
def test_no_cause_is_empty_or_longer_than_a_line(error: Exception, line: str) -> None:
    assert wire.one_line(error) == line
