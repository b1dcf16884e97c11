"""`tandem init`, `check` and `compare` as commands, and the estimate beside a measured process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from tests.integration.tiny import write_config

ROOT = Path(__file__).resolve().parents[2]
# A layer whose weights outweigh what a process needs anyway.
LARGE = (
    "data.layer.fields.hidden_size=512",
    "data.layer.fields.intermediate_size=2048",
    "data.layer.fields.num_hidden_layers=4",
    "data.layer.fields.num_attention_heads=8",
    "data.layer.fields.num_key_value_heads=8",
    "memory.layer.dim=64",
    "memory.layer.slots_side=256",
    "data.batch_size=2",
    "memory.batch_size=2",
)
MEASURE = """
import gc, json, sys
import psutil
from actors.corpus.corpus import train_tokenizer
from actors.training.data_trainer import DataTrainer
from actors.snapshots.flat_parameters import FlatParameters
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.training.memory_trainer import MemoryTrainer
from actors.snapshots.sections import section_of
from actors.snapshots.snapshot import publish
from actors.wire import Order
from orchestrator.settings.config import load_config
import torch, transformers.models.llama.modeling_llama

torch.set_num_threads(1)
group, path, *overrides = sys.argv[1:]
config = load_config(path, overrides)
tokenizer = train_tokenizer(config)
cpu, me = torch.device("cpu"), psutil.Process()
peer = build_data_layer(config, tokenizer, cpu)
if group == "data":
    peer = build_memory_layer(config, tokenizer, peer.vocab_rows, cpu)
other = "memory" if group == "data" else "data"
fields = {"run": "r", "group": other, "incarnation": 0, "version": 0, "step": 0, "peer_version": -1}
header, buckets = publish(FlatParameters(peer, section_of), 0, 1, **fields)
buckets = [bucket.copy() for bucket in buckets]
del peer
gc.collect()
before = me.memory_info().rss
kind = DataTrainer if group == "data" else MemoryTrainer
trainer = kind(config, tokenizer.to_json(), "r")
trainer.interval(Order("r", 0, 1, 2), [header], buckets)
gc.collect()
print(json.dumps(me.memory_info().rss - before))
"""


def tandem(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def config(workplace: Path) -> str:
    return str(write_config(workplace))


def checked(config: str, *overrides: str) -> dict[str, Any]:
    code, stdout, stderr = tandem("check", config, "name=unborn", "--json", *overrides)
    assert code == 0, stderr
    return dict(json.loads(stdout))


@pytest.mark.parametrize("group", [pytest.param("data", marks=pytest.mark.long), "memory"])
def test_a_worker_grows_by_what_was_estimated(group: str, config: str) -> None:
    parts = checked(config, *LARGE)["worker_bytes"][group]
    kept = ("weights", "gradients", "optimizer", "mirror")
    estimated = sum(parts[name] for name in kept)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, group, config, *LARGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    print(f"{group}: estimated {estimated >> 20} MiB, measured {measured >> 20} MiB")
    assert 0.5 < measured / estimated < 2.0


def test_check_ends_with_2_and_the_words_of_train(config: str, workplace: Path) -> None:
    wrong = ("name=unborn", "corpus.paths=[nothing.jsonl]")
    code, stdout, said = tandem("check", config, *wrong)
    assert (code, stdout) == (2, "")
    assert tandem("train", config, "--in-process", *wrong)[::2] == (2, said)
    assert not (workplace / "runs" / "unborn").exists()


def test_a_fresh_config_needs_nothing_but_the_path_of_a_corpus(workplace: Path) -> None:
    path = str(workplace / "fresh.yaml")
    assert tandem("init", path, "--force")[0] == 0
    assert tandem("init", path)[0] == 2
    mine = f"corpus.paths=[{workplace / 'text.txt'}]"
    code, stdout, stderr = tandem("check", path, mine, "corpus.block_bytes=512", "name=unborn")
    assert code == 0, stderr
    assert "unborn can be trained" in stdout


def test_compare_shows_two_runs_and_one_that_is_not_there(config: str, workplace: Path) -> None:
    for seed in ("1", "2"):
        code, _, stderr = tandem(
            "train", config, "--in-process", f"name=compared{seed}", f"seed={seed}"
        )
        assert code in (0, 3), stderr
    runs = [str(workplace / "runs" / name) for name in ("compared1", "compared2", "compared3")]
    code, stdout, stderr = tandem("compare", *runs, "--json")
    assert (code, "compared3: no such run" in stderr) == (2, True)
    found = json.loads(stdout)
    statuses = [run["status"] for run in found["runs"]]
    assert statuses[2] == "missing"
    assert all(status.startswith("finished") for status in statuses[:2])
    assert found["differences"] == {"seed": [1, 2, None]}
    assert {"data.tokens_per_s", "heldout.own_loss"} <= set(found["best"])
    assert tandem("compare", runs[2])[0] == 2
