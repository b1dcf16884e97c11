"""The front door: what a script or a notebook imports, under the project's own name.

    from tandem import load

    model = load("runs/quickstart")

Everything is `jobs.api`'s; it is imported when something is first asked for, since it brings torch
along. `python -m tandem` is the command.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.api import (
        Config,
        ConfigError,
        Console,
        RunResult,
        StorageError,
        TandemError,
        TandemModel,
        TandemOutput,
        Voice,
        load,
        load_config,
        train,
    )

__version__ = version("tandem-memory")
__all__ = [
    "Config",
    "ConfigError",
    "Console",
    "RunResult",
    "StorageError",
    "TandemError",
    "TandemModel",
    "TandemOutput",
    "Voice",
    "__version__",
    "load",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jobs import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*__all__]
