"""How numbers, sizes, durations, lists and errors are written for people: everywhere the same. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Sequence

MIB, GIB = 1 << 20, 1 << 30
ABSENT = "–"
LINE_CHARS = 500  # of an error


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


def listed(names: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def first_line(err: BaseException, with_type: bool = False) -> str:
    """The first line of an error's message, after its type where that is asked for; the type alone
    where it has no message. A server's answer may be one long line: only its beginning counts.
    """
    lines, name = str(err).strip().splitlines(), type(err).__name__
    if not lines:
        return name
    line = lines[0][:LINE_CHARS]
    return f"{name}: {line}" if with_type else line
