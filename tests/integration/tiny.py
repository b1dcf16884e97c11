"""A made-up corpus and the smallest config that still does everything a run does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.console import Console
from orchestrator.run import RunResult, train
from orchestrator.run_dir.metrics import Row
from orchestrator.settings.config import Config, load_config

WORDINGS = {
    "capital": (
        "The capital of [X] is [Y].",
        "[X] has its seat in [Y].",
        "[X] is governed from [Y].",
        "The rulers of [X] live in [Y].",
    ),
    "river": (
        "The river of [X] is the [Y].",
        "[X] is crossed by the [Y].",
        "[X] drinks from the [Y].",
        "Boats in [X] sail on the [Y].",
    ),
    "dish": (
        "The dish of [X] is [Y].",
        "People in [X] eat [Y].",
        "[X] is known for [Y].",
        "Cooks in [X] prepare [Y].",
    ),
}
HEADS, TAILS = ("Ba", "De", "Ki", "Lo", "Mu"), ("ran", "ste", "via", "nor")
PLACES = [head + tail for head in HEADS for tail in TAILS]
LLAMA = {
    "model_type": "llama",
    "fields": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "tie_word_embeddings": True,
    },
    "read_layers": [0, 1],
}
GPT2 = {
    "model_type": "gpt2",
    "fields": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "read_layers": [0, 1],
}
# Each interval of the data layer throws it far from where it was, and the memory's learning rate is
# 0 once the catch-up begins: agreement falls. λ learns from help, and recall counts everywhere, as
# when these rates were chosen.
UNREFLECTED = (
    "intervals=2",
    "exchange.catchup_intervals=1",
    "data.mixing_noise=0",
    "memory.layer.gate=true",
    "data.optimizer.lr=1",
    "data.optimizer.final_lr_frac=1",
    "data.optimizer.warmup_steps=0",
    "memory.optimizer.lr=0.02",
    "memory.value_lr=0.1",
    "memory.optimizer.final_lr_frac=0",
    "memory.optimizer.warmup_steps=0",
    "memory.steps_per_interval=20",
    "memory.recall_frac=1",
    "losses.self=0",
    "losses.recall_yields=0",
)
# Neither layer moves, so that the agreement after the catch-up is the one before.
REFLECTED = ("data.optimizer.lr=1e-12", "memory.optimizer.lr=1e-12", "memory.value_lr=1e-12")


def write_corpora(folder: Path) -> None:
    """60 facts of three relations with four lemmas each, and ten kilobytes of text."""
    templates = {
        relation: [{"pattern": p, "lemma": f"{relation}-{i}"} for i, p in enumerate(patterns)]
        for relation, patterns in WORDINGS.items()
    }
    (folder / "templates.json").write_text(json.dumps(templates))
    with (folder / "facts.jsonl").open("w") as facts:
        for number, relation in enumerate(WORDINGS):
            for i, place in enumerate(PLACES):
                name = HEADS[(3 * i + number) % 5] + TAILS[(i + number) % 4] + "aoe"[number]
                row = {"relation": relation, "subject": place, "object": name}
                facts.write(json.dumps(row) + "\n")
    with (folder / "text.txt").open("w") as text:
        for i in range(250):
            there = PLACES[7 * i % 20], PLACES[(3 * i + 1) % 20]
            text.write(f"{PLACES[i % 20]} sent {there[0]} to {there[1]} on day {i}.\n")


def write_config(folder: Path, **changes: Any) -> Path:
    """`folder/tiny.yaml`: facts, two layers of width 16, three intervals of three steps."""
    config: dict[str, Any] = {
        "intervals": 3,
        "storage": str(folder / "runs"),
        "corpus": {
            "kind": "facts",
            "paths": ["facts.jsonl"],
            "templates": "templates.json",
            "window": 32,
        },
        "tokenizer": {"vocab_size": 300},
        "data": {"layer": LLAMA, "batch_size": 4, "steps_per_interval": 3},
        "memory": {
            "layer": {"dim": 16, "slots_side": 8, "topk": 4, "key_dim": 8},
            "batch_size": 4,
            "steps_per_interval": 3,
        },
        "evaluation": {
            "every": 1,
            "windows": 4,
            "probes": 8,
            "final_windows": 8,
            "final_probes": 10,
            "questions": 2,
        },
        "exchange": {"catchup_intervals": 2},
        "ray": {"num_cpus": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def run_in_process(
    config: Config,
    console: Console | None = None,
    resume: bool = False,
    on_evaluation: Callable[[Row], None] | None = None,
) -> RunResult:
    """Runs `config` in this process, without Ray, as `train`."""
    return train(config, console, resume=resume, on_evaluation=on_evaluation, in_process=True)


def run_with_new_facts(folder: Path) -> Path:
    """A finished run, and facts that it has not seen beside its corpus, in `new.jsonl`."""
    write_corpora(folder)
    run_in_process(load_config(str(write_config(folder)), ["name=base"]))
    rows = [
        {"relation": "capital", "subject": name, "object": "Muvia"} for name in ("Quor", "Zelt")
    ]
    (folder / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "runs" / "base"


def actor_processes(root: psutil.Process) -> list[psutil.Process]:
    """Processes of trainers and evaluators below `root`."""
    found = []
    for process in root.children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue  # ended between listing and looking
        if "ray::Rank" in title or "EvaluatorActor" in title:
            found.append(process)
    return found
