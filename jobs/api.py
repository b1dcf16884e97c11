"""What a notebook or a script imports: train a run, load what it exported; see docs/python.md.

    from jobs.api import load, load_config, train

Decides nothing itself.
"""

from __future__ import annotations

import os

from actors.measuring.voices import Voice
from actors.pair.tandem_model import TandemModel, TandemOutput, load_tandem_model
from actors.wire import ConfigError, StorageError, TandemError
from orchestrator.console import Console
from orchestrator.run import RunResult, train
from orchestrator.run_dir.run_dir import find_export
from orchestrator.settings.config import Config, load_config

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
    "load",
    "load_config",
    "train",
]


def load(run: str | os.PathLike[str]) -> TandemModel:
    """The model with memory that a run exported: on the CPU, in eval mode.

    Args:
        run: a run directory or its `export` folder; any fsspec URL.

    Raises:
        ConfigError: no run there, a run without a finished export, or a missing or damaged file.
        StorageError: its storage is away.
    """
    return load_tandem_model(find_export(run))
