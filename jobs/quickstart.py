"""`tandem quickstart`: trains the pair that ships with the package, in any folder.

The config and its facts are inside the package; the run directory is made below the working
directory, as for any other run.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.init import EXAMPLES
from jobs.train import run_training
from orchestrator.console import Console
from orchestrator.settings.config import load_config

CONFIG = EXAMPLES / "quickstart.yaml"
QUESTION = "The capital of France is"


def run_quickstart(overrides: Sequence[str], console: Console, in_process: bool = False) -> bool:
    """Trains it, says what to try next, and returns whether the memory caught up.

    Raises:
        TandemError: as `run_training`.
    """
    caught_up = run_training(str(CONFIG), overrides, console, False, in_process=in_process)
    config = load_config(str(CONFIG), overrides)
    run = f"{config.storage}/{config.name}"
    console.say(f'\ntry: tandem ask {run} "{QUESTION}"\nits config: {CONFIG}')
    return caught_up
