"""What this machine's CPU computes fast, from the flags that Linux lists. No torch."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Any of these multiplies bf16 matrices in hardware: Intel and AMD, Intel's tiles, Arm.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "svebf16"})


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str] | None:
    """Features of the first CPU, as Linux names them; None: not listed, or not Linux."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(flags.split())
    return None


def slow_bf16(group: str, precision: str, gpus: float, cpuinfo: Path = CPUINFO) -> str | None:
    """A warning if a group computes in bf16 on a CPU without instructions for it; None if it has
    them, or its features are unknown.
    """
    if precision != "bf16" or gpus > 0:
        return None
    flags = cpu_flags(cpuinfo)
    if flags is None or flags & BF16_FLAGS:
        return None
    return (
        f"{group}.precision is bf16, for which the CPU has no instructions (none of "
        f"{', '.join(sorted(BF16_FLAGS))}): a pass takes about ten times as long as in fp32; set "
        f"{group}.precision: fp32, or give the group GPUs"
    )
