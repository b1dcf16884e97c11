"""`tandem evaluate --learn`: what a run's pair learns from another corpus, without and with memory.

Two short forks of the exported pair in one process, without Ray. Nothing of the run changes; of the
forks only the figures are kept.
"""

from __future__ import annotations

import json
import posixpath
import time
from typing import Any

from rich.table import Table

from actors.settings.corpus import CorpusSpec
from actors.wire import ConfigError
from jobs.learn.new_corpus import any_corpus
from orchestrator.console import Console
from orchestrator.reporting.learn_report import forks_page, forks_rows
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import TOKENIZER

CURVE_POINTS = 8


def run_forks(
    run: str, corpus: str, templates: str | None, steps: int, console: Console, as_json: bool
) -> dict[str, Any]:
    """Trains both forks, writes the page beside the run, prints and returns the figures.

    Raises:
        ConfigError: not a finished run, one whose model never trains, or a missing or malformed
            corpus.
        TandemError: a fork failed.
    """
    run_dir = RunDir(run)
    export = find_export(run)
    config = saved_config(run_dir)
    if config.data.layer.keeps_model:
        raise ConfigError(
            f"{run_dir.url}: its data layer keeps its weights (data.layer.train: port), so without "
            "memory nothing of it could learn, and there is nothing to compare; its memory learns "
            f"with: tandem learn {run_dir.url} --facts FILE"
        )
    given = any_corpus(config, corpus, templates)

    storage, _, name = run_dir.url.rpartition("/")
    stem = posixpath.basename(corpus.rstrip("/")).partition(".")[0] or "corpus"
    page = f"{name}-forks-{stem}.html"
    forks: dict[str, Any] = {
        "run": run_dir.url,
        "name": name,
        "corpus": list(given.paths),
        "steps": steps,
        "report": f"{storage or '.'}/{page}",
        "how": f"{steps} steps of the data layer on {given.described}, each fork from the run's "
        "exports",
    }
    with TaskProgress() as progress:
        forks |= _train(config, export, run_dir.read(TOKENIZER), given, steps, progress)
    RunDir(storage or ".").write(page, forks_page(forks))
    if as_json:
        console.print_json(json.dumps(forks))
    else:
        _print(forks, console)
    return forks


def _train(
    config: Config,
    export: str,
    tokenizer_json: str,
    given: CorpusSpec,
    steps: int,
    progress: TaskProgress,
) -> dict[str, Any]:
    import torch

    from actors.corpus.corpus import Corpus
    from actors.learning.fork import Fork, fork_spec
    from actors.measuring.knowledge import KnowledgeTest
    from actors.tokenizers.tokenizer import Tokenizer

    found: dict[str, Any] = {}
    for name, with_memory in (("without", False), ("with", True)):
        progress(f"{name} memory: loading the pair")
        spec = fork_spec(config, export, given, steps, with_memory, torch.cuda.is_available())
        fork = Fork(spec, tokenizer_json, steps, with_memory)
        exam_corpus = Corpus.open(spec, Tokenizer.from_json(tokenizer_json))
        short, final = (
            KnowledgeTest(spec, exam_corpus, fork.data.device, f) for f in (False, True)
        )
        before = final.by_voice(fork.pair, progress)
        if "before" not in found:
            found |= {"before": before, "facts": exam_corpus.facts is not None}
        curve: list[dict[str, Any]] = []
        seconds, every = 0.0, max(1, -(-spec.intervals // CURVE_POINTS))

        def point(
            fork: Fork = fork, short: KnowledgeTest = short, curve: list[dict[str, Any]] = curve
        ) -> None:
            fork.data.layer.eval()
            curve.append({"step": fork.step, **short.by_voice(fork.pair, progress)})
            fork.data.layer.train()

        point()
        while True:
            progress(f"{name} memory: steps", fork.step, steps)
            began = time.perf_counter()
            went_on = fork.interval()
            seconds += time.perf_counter() - began
            if not went_on:
                break
            if fork.data.interval_done % every == 0 or fork.step >= steps:
                point()
                progress.says(_line(name, curve[-1], steps, seconds))
        fork.data.layer.eval()
        found[name] = {
            "reached": final.by_voice(fork.pair, progress),
            "curve": curve,
            "data_tokens": fork.data_tokens,
            "memory_tokens": fork.memory_tokens,
            "seconds": seconds,
        }
    return found


def _line(name: str, point: dict[str, Any], steps: int, seconds: float) -> str:
    voice = "help" if name == "with" else "own"
    line = (
        f"{name} memory, step {point['step']}/{steps}, {seconds:.0f} s: loss "
        f"{point[f'{voice}_loss']:.3f}, tokens right {point[f'{voice}_tokens_right']:.3f}"
    )
    if "accuracy" in point:
        line += f", answers {point['accuracy'][voice]:.2f}"
    return line


def _print(forks: dict[str, Any], console: Console) -> None:
    table = Table(title=forks["how"], title_justify="left")
    for heading in ("figure", "before", "without memory", "with memory"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for row in forks_rows(forks):
        table.add_row(*row)
    console.print(table)
    without, with_ = forks["without"], forks["with"]
    console.say(
        f"without: {without['data_tokens']:,} tokens in {without['seconds']:.0f} s; with: "
        f"{with_['data_tokens']:,} of the data layer and {with_['memory_tokens']:,} of the memory "
        f"in {with_['seconds']:.0f} s, one after the other"
    )
    console.say(f"report: {forks['report']}")
