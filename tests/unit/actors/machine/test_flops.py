"""Model FLOPs utilisation."""

from __future__ import annotations

import pytest

from actors.machine.flops import peak, utilisation


@pytest.mark.parametrize(
    ("device", "precision", "want"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H200", "fp32", 67e12),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312e12),
        ("Tesla T4", "fp32", 8.1e12),
        ("cpu", "fp32", None),
        ("Some Card 9000", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_card_and_the_format(
    device: str, precision: str, want: float | None
) -> None:
    assert peak(device, precision) == want


def test_utilisation_is_six_flops_per_parameter_and_token_over_the_peak() -> None:
    assert utilisation(10**9, 50_000, 1.0, 1e15) == pytest.approx(0.3)


@pytest.mark.parametrize(("seconds", "peak_flops"), [(0.0, 1e12), (1.0, None)])
def test_where_it_can_not_be_told_it_is_none(seconds: float, peak_flops: float | None) -> None:
    assert utilisation(10, 10, seconds, peak_flops) is None
