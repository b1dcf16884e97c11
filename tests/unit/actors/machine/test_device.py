"""What a worker's device is, and what is said where it can't compute as it was asked to."""

from __future__ import annotations

import pytest

from actors.machine.device import explain_nondeterminism, take_device
from actors.settings.groups import WorkersSpec
from actors.wire import ConfigError


def test_gpus_without_a_cuda_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"data\.workers\.gpus is 1, but torch"):
        take_device("data", WorkersSpec(gpus=1))


def test_a_kernel_without_a_deterministic_form_is_named() -> None:
    expected = r"cumsum_cuda_kernel has no deterministic kernel.*deterministic: false"
    message = "cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."
    with pytest.raises(ConfigError, match=expected), explain_nondeterminism():
        raise RuntimeError(message)


def test_other_errors_of_a_step_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), explain_nondeterminism():
        raise RuntimeError("CUDA out of memory")
