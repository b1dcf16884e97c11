"""`tandem learn RUN` trains the port after the memory: files of the result, and those of RUN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.layers.named_writes import Association
from actors.learning.port_learner import PortLearner
from jobs.api import load
from jobs.learn.learn import LearnOptions, run_learn
from jobs.tell.told_pair import ToldPair
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from tests.integration.tiny import run_in_process, run_with_new_facts

MODEL, PORT = "export/data_layer/model.safetensors", "export/memory_port/port.safetensors"
MEMORY = "export/memory_layer/memory.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and new facts beside its corpus."""
    return run_with_new_facts(tmp_path_factory.mktemp("port"))


def learn(run: Path, out: object, **options: Any) -> dict[str, Any]:
    facts = str(run.parents[1] / "new.jsonl")
    given = {"facts": facts, "out": str(out), "steps": 4, "port": True}
    return run_learn(str(run), LearnOptions(**{**given, **options}), Console(quiet=True), False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def learned(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, bytes]]:
    """Files of the results with the port trained and without."""
    folder = tmp_path_factory.mktemp("learned")
    found = {}
    for port in (True, False):
        said = learn(run, folder / str(port), port=port)
        assert said["port"] == ({"steps": 2, "lr": 0.002} if port else None)
        found[port] = contents(folder / str(port))
    return found


def test_the_port_alone_differs_from_a_result_without_it(
    run: Path, learned: dict[bool, dict[str, bytes]]
) -> None:
    before = contents(run)
    with_port, without = learned[True], learned[False]
    assert with_port[MODEL] == without[MODEL] == before[MODEL]
    assert with_port[MEMORY] == without[MEMORY] != before[MEMORY]
    assert with_port[PORT] != without[PORT] == before[PORT]
    digests = [json.loads(each["summary.json"])["digest"] for each in (with_port, without, before)]
    assert digests[0]["memory"] == digests[1]["memory"]
    assert digests[0]["data"] != digests[1]["data"] == digests[2]["data"]


def test_a_learn_that_is_stopped_while_the_port_learns_leaves_the_run_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, steps = contents(run), []
    step = PortLearner.train_step

    def stopped(learner: PortLearner) -> float:
        steps.append(step(learner))
        raise KeyboardInterrupt

    monkeypatch.setattr(PortLearner, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(run, tmp_path / "stopped")
    assert len(steps) == 1
    assert contents(run) == before
    assert not (tmp_path / "stopped").exists()


@pytest.mark.long
def test_what_the_run_was_told_is_answered_by_the_pair_that_learned(
    run: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    learn(run, first, port=False)
    ToldPair(str(first / "export")).tell([Association("The capital of Zem is", "Dera")], id="zem")
    said = learn(first, tmp_path / "second", facts=str(run.parents[1] / "new.jsonl"))
    assert said["told"]["answered"] == said["told"]["associations"] == 1
    pair = load(tmp_path / "second")
    assert [write.id for write in pair.told()] == ["zem"]


@pytest.mark.long
def test_a_result_in_a_bucket_is_read_from_there(
    run: Path, learned: dict[bool, dict[str, bytes]]
) -> None:
    url = "memory://learned-port/result"
    learn(run, url)
    there = RunDir(url)
    assert json.loads(there.read("learned.json"))["port"]["steps"] == 2
    summary = json.loads(there.read("summary.json"))
    assert summary["digest"] == json.loads(learned[True]["summary.json"])["digest"]
    assert load(url).ask("The capital of Quor is", max_new_tokens=1) is not None


@pytest.mark.long
def test_a_run_that_starts_from_the_result_has_its_port(run: Path, tmp_path: Path) -> None:
    learn(run, tmp_path / "learned")
    changes = [
        "name=next",
        "intervals=1",
        "data.layer.fields={}",
        f"data.layer.pretrained={tmp_path / 'learned'}",
        f"memory.layer.start_from={tmp_path / 'learned'}",
        f"tokenizer.pretrained={tmp_path / 'learned'}",
        "data.optimizer.lr=1e-12",
        "memory.optimizer.lr=1e-12",
        "memory.value_lr=1e-12",
    ]
    config = load_config(str(run.parents[1] / "tiny.yaml"), changes)
    summary = run_in_process(config).summary
    before = json.loads((tmp_path / "learned" / "summary.json").read_text())
    for name in ("own_loss", "help_loss", "self_loss"):
        assert summary["heldout"][name] == pytest.approx(before["heldout"][name], abs=1e-4)
