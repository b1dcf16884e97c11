"""The config of a run that teaches a finished one. Pure; no torch.

Everything that is not teaching's own is the run's: both layers, windows, workers, precision.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from actors.settings.fitted import ModelSize, data_rate
from actors.settings.groups import KEPT_READS
from actors.settings.layers import DROPOUT_ENDINGS, LORA
from actors.settings.run import DATA, GROUPS, MEMORY
from actors.settings.teach import TeachSpec
from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.config_paths import anchor_paths

INTERVALS = 4  # between which both groups exchange what they have learned
LEAST_STEPS = 120
EPOCHS = 10  # of the lessons as given, where --steps says nothing
LARGE_FACTOR = 3.0  # of the rate that fits a large model, which its few steps are too few for
LR_FRAC = 0.5  # of the rate at which the run trained its data layer
LORA_LR = 1e-3  # where a small run trained no adapters; a fresh model wants more (docs/LOG.md)
MEMORY_LR_FRAC = 0.35  # of those of its memory
BATCH_FACTOR = 1.5  # of the run's batch, which has to hold lessons beside the text
LESSONS, EXAM, WRITTEN = "lessons.jsonl", "exam.json", "written.jsonl"
TOLD, OWN_TEXT = "told.safetensors", "own_text.json"
LEAST_BLOCKS, LEAST_BLOCK_BYTES = 40, 256  # so that some of the text is held out too


@dataclass(frozen=True)
class Sources:
    """What the teaching begins with.

    Attributes:
        data: export of the first data layer, which stays the reference.
        memory: export of the memory that follows, told the lessons.
        num_bytes: of the text that the memory wrote.
        num_windows: of the lessons as given, all once.
        has_reworded: whether there are other wordings.
        size: of the data layer's model, where its config.json says it.
    """

    data: str
    memory: str
    num_bytes: int
    num_windows: int
    has_reworded: bool
    size: ModelSize | None = None


def taught_config(
    config: Config,
    out: RunDir,
    sources: Sources,
    steps: int | None,
    lr: float | None,
    seed: int | None,
    teach: TeachSpec,
    train: str | None = None,
) -> Config:
    """The config of the run at `out`.

    Args:
        config: of the run that is taught.
        out: where the taught one goes, and its lessons and text are.
        sources: what it begins with.
        steps, lr, seed: as given; None: what the lessons and the run make of them.
        teach: shares and weights.
        train: what of the data layer moves, `all` or `lora`; None: what the run trained, or, where
            that was the port alone, adapters.

    Raises:
        ConfigError: `out` is no name for a run; the steps can't show all lessons.
    """
    storage, _, name = out.url.rpartition("/")
    values: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    # One that was taught before has batch and rates of a teaching already.
    frac = 1.0 if config.teach.is_on else MEMORY_LR_FRAC
    size = batch_of(config)
    per_step, _ = teach.data_counts(size, sources.has_reworded)
    num_steps = steps_for(sources.num_windows, per_step) if steps is None else steps
    refuse_too_few(num_steps, sources.num_windows, per_step)
    intervals = min(INTERVALS, num_steps)
    each = math.ceil(num_steps / intervals)
    values |= {
        "name": name,
        "storage": storage or ".",
        "seed": config.seed if seed is None else seed,
        "intervals": intervals,
        "profile": "",
        "corpus": {
            "paths": [out.path(WRITTEN)],
            "window": config.corpus.window,
            "token_noise": config.corpus.token_noise,
            "block_bytes": max(LEAST_BLOCK_BYTES, min(16384, sources.num_bytes // LEAST_BLOCKS)),
        },
        "teach": {
            **teach.model_dump(),
            "lessons": out.path(LESSONS),
            "exam": out.path(EXAM),
        },
    }
    values["tokenizer"] |= {"pretrained": f"{sources.data}/data_layer"}
    values["exchange"] = {"catchup_intervals": max(2, config.exchange.catchup_intervals // 2)}
    values["checkpoints"] |= {"every": 1}
    values["recovery"] |= {"accept_corpus": ""}
    # the same windows before and after, so that their losses can be compared
    values["evaluation"] |= {"every": intervals, "windows": 64, "final_windows": 64}
    layer, memory = values["data"]["layer"], values["memory"]
    dropouts = {k: v for k, v in layer["fields"].items() if k.endswith(DROPOUT_ENDINGS)}
    moves = train or (LORA if config.data.layer.keeps_model else config.data.layer.train)
    layer |= {"train": moves, "pretrained": sources.data, "fields": dropouts, "fresh_port": False,
              "compile": False}  # fmt: skip
    memory["layer"] |= {"start_from": sources.memory, "compile": False}
    memory["value_lr"] *= frac
    memory["kept_reads"] = max(memory["kept_reads"], KEPT_READS)  # told beside them
    memory["teacher"] = "mirror"  # it is asked about lessons and written text
    for group in GROUPS:
        own = values[group]
        own["batch_size"] = size
        is_still = group == MEMORY and teach.memory_train == "nothing"
        own["steps_per_interval"] = 1 if is_still else each
        usual = frac * own["optimizer"]["lr"]
        own["optimizer"] |= {
            "lr": (lr or data_lr(config, moves, sources.size)) if group == DATA else usual,
            "schedule": "cosine",
            "decay_frac": 0.2,
            "final_lr_frac": 0.1,
            "warmup_steps": max(1, num_steps // 10),
            "weight_decay": 0.0,
        }
    values["losses"] |= {"recall_yields": 0.0}
    anchor_paths(values, os.getcwd())  # RUN and --out are named from where the command runs
    return make_config(values, source=f"--out {name}")


def batch_of(config: Config) -> int:
    """Sequences of a batch of the run that teaches this one."""
    size = config.data.batch_size
    return size if config.teach.is_on else math.ceil(BATCH_FACTOR * size)


def data_lr(config: Config, moves: object, size: ModelSize | None) -> float:
    """Peak rate of the data layer: half of the run's, where that trained what moves now, or the
    run's own where that was a teaching. A rate at which a port or a fresh model trained is none for
    a model that has learned something before.

    Args:
        config: of the run that is taught.
        moves: what of the data layer moves.
        size: of its model.
    """
    if moves == config.data.layer.train and config.teach.is_on:
        return config.data.optimizer.lr
    if moves != config.data.layer.train and size is not None and not size.is_small:
        return LARGE_FACTOR * data_rate(moves, size)
    if moves == LORA != config.data.layer.train:
        return LR_FRAC * LORA_LR
    return LR_FRAC * config.data.optimizer.lr


def steps_for(num_windows: int, per_step: int) -> int:
    """Steps in which every lesson is shown often enough."""
    return max(LEAST_STEPS, math.ceil(EPOCHS * num_windows / per_step))


def refuse_too_few(steps: int, num_windows: int, per_step: int) -> None:
    """Raises: ConfigError where some lesson would never be shown."""
    if steps * per_step < num_windows:
        raise ConfigError(
            f"--steps {steps}: the lessons fill {num_windows:,} windows and {steps} steps show "
            f"{steps * per_step:,}, so some would never be taught; give at least --steps "
            f"{math.ceil(num_windows / per_step)}, better {steps_for(num_windows, per_step)}"
        )
