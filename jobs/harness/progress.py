"""The harness' bars, and those of the data sets that it reads, as `Progress`: both draw with tqdm,
beside ours, and say nothing of the voice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets.arrow_dataset
import datasets.builder
import datasets.download.download_manager
import datasets.utils.py_utils
from lm_eval.api import model as harness_model
from lm_eval.api import task as harness_task
from lm_eval.models import huggingface

from actors.machine.progress import Progress, bars_as

# Modules, and under which name they know tqdm.
DRAWING = (
    *((module, "tqdm") for module in (harness_model, harness_task, huggingface)),
    *(
        (module, "hf_tqdm")
        for module in (
            datasets.arrow_dataset,
            datasets.builder,
            datasets.download.download_manager,
            datasets.utils.py_utils,
        )
    ),
)


@contextmanager
def seen_by(progress: Progress, voice: str) -> Iterator[None]:
    """During the block `progress` sees what they count, named after the voice."""
    before = [(module, name, getattr(module, name)) for module, name in DRAWING]
    for module, name in DRAWING:
        setattr(module, name, bars_as(progress, voice))
    try:
        yield
    finally:
        for module, name, own in before:
            setattr(module, name, own)
