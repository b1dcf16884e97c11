"""Tasks of lm-evaluation-harness on disk, one of each kind, about the made-up countries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.unit.actors.tiny import COUNTRIES

KINDS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "rest": {
        "output_type": "loglikelihood",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_target": " {{capital}}",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    },
    "text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "The capital of {{country}} is {{capital}}.",
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
        ],
    },
    "say": {
        "output_type": "generate_until",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_target": "{{capital}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 6},
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
            }
        ],
    },
}


def write_tasks(folder: Path, num: int = 6) -> Path:
    """`folder/tasks`, with the YAML files and what they ask."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    capitals = [capital for _, capital in COUNTRIES]
    rows = [
        {
            "country": country,
            "capital": capital,
            "choices": [f" {capitals[(at + k) % len(capitals)]}" for k in range(3)][::-1],
            "label": 2,
        }
        for at, (country, capital) in enumerate(COUNTRIES[:num])
    ]
    (tasks / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind in KINDS.items():
        described = {
            "task": f"capitals_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tasks / "capitals.jsonl")},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
            **kind,
            "metadata": {"version": 1.0},
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return tasks
