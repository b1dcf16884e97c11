"""A warning only where a CPU says that it has no bf16."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.machine.cpu_features import CPUINFO, cpu_flags, slow_bf16

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f avx512_vnni{}\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd i8mm{}\nCPU part\t: 0xd4f\n"


def cpuinfo(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "more"), [(INTEL, " avx512_bf16"), (INTEL, " amx_bf16"), (ARM, " bf16 dgh")]
)
def test_a_cpu_with_bf16_is_not_warned_of_and_one_without_is(
    text: str, more: str, tmp_path: Path
) -> None:
    assert slow_bf16("data", "bf16", 0, cpuinfo(tmp_path, text.format(more))) is None
    warning = slow_bf16("data", "bf16", 0, cpuinfo(tmp_path, text.format("")))
    assert warning is not None
    assert "data.precision is bf16, for which the CPU has no instructions" in warning
    assert "set data.precision: fp32" in warning


def test_fp32_and_gpus_are_not_warned_of(tmp_path: Path) -> None:
    plain = cpuinfo(tmp_path, INTEL.format(""))
    assert slow_bf16("data", "fp32", 0, plain) is None
    assert slow_bf16("data", "bf16", 0.5, plain) is None


@pytest.mark.parametrize("text", ["", "processor : 0\n"])
def test_a_cpu_that_says_nothing_is_not_warned_of(text: str, tmp_path: Path) -> None:
    assert slow_bf16("data", "bf16", 0, cpuinfo(tmp_path, text)) is None
    assert slow_bf16("data", "bf16", 0, tmp_path / "none") is None


@pytest.mark.skipif(not CPUINFO.exists(), reason="no Linux: there is no /proc/cpuinfo")
def test_this_machine_lists_its_flags() -> None:
    assert cpu_flags()
