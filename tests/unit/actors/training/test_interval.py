"""What a step measures: read from the device at once, and told where it is no number."""

from __future__ import annotations

import pytest
import torch

from actors.training.interval import Measured, not_finite
from tests.unit.actors.waits import counted_waits


def test_what_the_device_computed_is_read_with_one_wait_and_added_up_by_name() -> None:
    step = Measured({"lr": 0.5})
    with counted_waits() as waits:
        for value in (1.0, 2.0):
            step.add_share("own", torch.tensor(value), 0.5)
        step.add_metric("gradient_norm", torch.tensor(3.0))
        step.read()
    assert len(waits) == 1, waits.found
    assert step.shares == {"own": 1.5}
    assert step.metrics == {"lr": 0.5, "gradient_norm": 3.0}


def test_what_was_read_is_not_added_again() -> None:
    step = Measured()
    step.add_share("own", torch.tensor(1.0))
    step.read()
    step.read()
    assert step.shares == {"own": 1.0}


def test_a_share_keeps_no_graph() -> None:
    step = Measured()
    step.add_share("own", torch.tensor(1.0, requires_grad=True) * 2)
    assert not step.unread[0][2].requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_value_that_is_no_number_is_named(value: float) -> None:
    values = {"loss": 1.0, "gradient_norm": value, "value_gradient_norm": float("nan")}
    assert not_finite(values, "memory", 1, 2, 9) == (
        f"memory rank 1: gradient_norm is {value} at step 10 of interval 3; the last good state is "
        "version 2; lower memory.optimizer.lr or memory.optimizer.clip_norm, or raise warmup_steps"
    )


def test_of_finite_values_nothing_is_told() -> None:
    assert not_finite({"loss": 1.0}, "data", 0, 0, 0) == ""
