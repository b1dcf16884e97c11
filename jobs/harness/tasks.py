"""`tandem evaluate RUN --tasks`: the three voices in the harness' tasks, side by side.

Standard errors are the harness'. Where a task has a figure of each question, the difference between
both together and the data layer alone has one of its own, of the same questions.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.machine.progress import Progress, unseen
from actors.measuring.voices import VOICES
from actors.pair.tandem_model import TandemModel
from actors.weights.pretrained_model import loading_seen
from actors.wire import ConfigError
from jobs.harness.options import INSTALL, TaskOptions

BASE = "base"
SEED = 1234  # of the harness: which examples stand before a question
BOOTSTRAPPED = 1000  # draws for standard errors of figures that are no means


@dataclass
class Figure:
    """One figure of one task, by each voice.

    Attributes:
        task, name: which; `name` with its filter, where there is one.
        values, errors: by voice, and `base`; a missing error is unknown.
        gain, gain_error: both together minus the data layer alone, of the same questions.
    """

    task: str
    name: str
    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    gain: float | None = None
    gain_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "task": self.task,
            "figure": self.name,
            "values": self.values,
            "stderr": self.errors,
            "gain": self.gain,
            "gain_stderr": self.gain_error,
        }


def task_manager(options: TaskOptions) -> Any:
    """What finds the tasks; raises where one is not known.

    Raises:
        ConfigError: a task that does not exist; the nearest name is given.
    """
    from lm_eval.tasks import TaskManager

    files = [task for task in options.tasks if task.endswith((".yaml", ".yml"))]
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"--tasks: no file {file}; expected a task's YAML file, or a name")
    if options.include is not None and not Path(options.include).is_dir():
        raise ConfigError(f"--include: no folder {options.include}; expected one with YAML files")
    named = [task for task in options.tasks if task not in files]
    manager = TaskManager(include_path=options.include, include_defaults=False)
    if set(named) - set(manager.all_tasks):  # the harness' own take seconds to list
        manager = TaskManager(include_path=options.include)
    for task in named:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, 1, 0)
            raise ConfigError(f"--tasks: no task {task!r}; did you mean {near[0]!r}?")
    return manager


def evaluated(
    run: str, model: TandemModel, options: TaskOptions, progress: Progress = unseen
) -> tuple[list[Figure], dict[str, int]]:
    """Figures of all voices, and of the base, where one is given; and how many questions each task
    has.

    Args:
        run: where the pair is.
        model: the pair.
        options: of the command.
        progress: sees which voice is asked, and how many of the harness' requests are done.

    Raises:
        ConfigError: the harness is missing, or a task can't be used.
    """
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        from jobs.harness.model import TandemLM
        from jobs.harness.progress import seen_by
    except ImportError as err:
        raise ConfigError(f"--tasks needs lm-eval: {err}; {INSTALL}") from err
    progress("looking for the tasks")
    with _quiet():
        manager = task_manager(options)
        models: dict[str, Any] = {
            voice: TandemLM(
                run,
                voice,
                as_documents=options.as_documents,
                pair=model,
                batch_size=options.batch_size,
            )
            for voice in VOICES
        }
        if options.base is not None:
            try:
                with loading_seen(progress):
                    models[BASE] = HFLM(
                        options.base,
                        device=str(model.device),
                        dtype=str(model.dtype).removeprefix("torch."),
                        batch_size=options.batch_size,
                        trust_remote_code=False,
                    )
            except (OSError, ValueError) as err:
                raise ConfigError(f"--base {options.base}: can't be loaded: {err}") from err
        results: dict[str, Any] = {}
        for voice, lm in models.items():
            progress(f"{voice}: reading the tasks")
            try:
                with seen_by(progress, voice):
                    results[voice] = evaluate(
                        lm,
                        _loaded(manager, options),
                        limit=options.limit,
                        bootstrap_iters=BOOTSTRAPPED,
                        fewshot_as_multiturn=True,
                    )
            except (OSError, ValueError, KeyError, AssertionError) as err:
                raise ConfigError(f"--tasks: {type(err).__name__}: {err}") from err
    counts = {task: n["effective"] for task, n in results[VOICES[0]]["n-samples"].items()}
    return figures_of(results), counts


def _loaded(manager: Any, options: TaskOptions) -> Any:
    """The tasks as the harness' `simple_evaluate` prepares them, which besides asks pip and git
    about this machine, for some seconds each time.
    """
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    loaded = manager.load(list(options.tasks))
    for task in loaded["tasks"].values():
        given = task.get_config("num_fewshot")
        if options.fewshot is not None and given != 0:  # 0 in a task's file is meant
            task.set_config(key="num_fewshot", value=options.fewshot)
        elif given is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def figures_of(results: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """The harness' results, by voice, as figures of each task."""
    found: dict[tuple[str, str], Figure] = {}
    for voice, result in results.items():
        for task, values in result["results"].items():
            for key, value in values.items():
                name, _, filtered = key.partition(",")
                if name.endswith("_stderr") or not _is_number(value) or not filtered:
                    continue
                shown = name if filtered == "none" else f"{name} ({filtered})"
                figure = found.setdefault((task, shown), Figure(task, shown))
                figure.values[voice] = float(value)
                error = values.get(f"{name}_stderr,{filtered}")
                if _is_number(error):
                    figure.errors[voice] = float(error)
    for figure in found.values():
        name = figure.name.partition(" ")[0]
        pair = [_by_question(results[voice], figure.task, name) for voice in ("own", "help")]
        if pair[0] and len(pair[0]) == len(pair[1]):
            gains = [both - own for own, both in zip(*pair, strict=True)]
            figure.gain, figure.gain_error = mean_and_error(gains)
    return list(found.values())


def _by_question(result: Mapping[str, Any], task: str, name: str) -> list[float]:
    """A figure of each question, in their order; nothing where it is none."""
    samples = (result.get("samples") or {}).get(task) or []
    one_filter = len({sample.get("filter") for sample in samples}) == 1
    values = [sample.get(name) for sample in sorted(samples, key=lambda s: s["doc_id"])]
    return [float(v) for v in values] if one_filter and all(map(_is_number, values)) else []


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error; of one value none."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness speaks of every step; its warnings alone are shown."""
    logger = logging.getLogger("lm_eval")
    before, parallel = logger.level, os.environ.get("TOKENIZERS_PARALLELISM")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
        if parallel is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
