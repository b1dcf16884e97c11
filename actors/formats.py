"""How numbers, sizes and durations are written for people: everywhere the same. Pure functions."""

from __future__ import annotations

MIB, GIB = 1 << 20, 1 << 30
ABSENT = "–"


def figure(value: float | None, form: str = "") -> str:
    """A figure, with `form` as of `format`; without one, whole numbers with thousands separated
    and others to about five digits. A dash where there is none.
    """
    if value is None:
        return ABSENT
    if not form:
        size = abs(value)
        decimals = 4 if size < 100 else 1 if size < 1000 else 0
        form = "," if isinstance(value, int) else f",.{decimals}f"
    return format(value, form)


def count(number: float) -> str:
    """A number of parameters: millions, or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def text_size(num_bytes: float) -> str:
    """Bytes of files and text, in powers of ten as file listings have them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def memory_size(num_bytes: float) -> str:
    """Bytes of memory and disk, in powers of two as limits are given."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= GIB else mib(num_bytes, 0)


def mib(num_bytes: float, decimals: int = 1) -> str:
    """Bytes in MiB, for sizes that stand beside a limit in MiB or below each other."""
    return f"{num_bytes / MIB:,.{decimals}f} MiB"


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
