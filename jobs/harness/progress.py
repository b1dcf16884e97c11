"""The harness' bars as `Progress`: it draws its own with tqdm, which say nothing of the voice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lm_eval.api import model as harness_model
from lm_eval.models import huggingface

from actors.machine.progress import Progress, bars_as

DRAWING = (harness_model, huggingface)  # modules whose `tqdm` counts requests


@contextmanager
def seen_by(progress: Progress, voice: str) -> Iterator[None]:
    """During the block `progress` sees what the harness counts, named after the voice."""
    before = [(module, module.tqdm) for module in DRAWING]
    for module in DRAWING:
        module.tqdm = bars_as(progress, voice)
    try:
        yield
    finally:
        for module, own in before:
            module.tqdm = own
