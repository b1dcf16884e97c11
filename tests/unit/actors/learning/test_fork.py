"""Forks of a finished run, on another corpus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actors.learning.fork import Fork, fork_spec
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.pair_export import load_pair
from tests.unit.actors.tiny import Exchange, run_spec, write_facts
from tests.unit.actors.tiny_pair import exported

STEPS = 8  # two intervals


@dataclass
class Forked:
    """A fork that came to its end, and what was seen on the way."""

    fork: Fork
    start: tuple[str, str]  # digests of both layers
    port: dict[str, Tensor]  # at the start
    steps: list[int]


@dataclass
class Run:
    """A run's spec, export and tokenizer, and another corpus."""

    spec: RunSpec
    export: str
    tokenizer: Tokenizer
    corpus: CorpusSpec
    files: dict[Path, bytes]

    def fork_spec(self, with_memory: bool) -> RunSpec:
        return fork_spec(self.spec, self.export, self.corpus, STEPS, with_memory, gpus=False)

    def forked(self, with_memory: bool) -> Forked:
        fork = Fork(self.fork_spec(with_memory), self.tokenizer.to_json(), STEPS, with_memory)
        port = {name: p.detach().clone() for name, p in fork.data.layer.port.named_parameters()}
        done = Forked(fork, digests(fork), port, [])
        while fork.interval():
            done.steps.append(fork.step)
        return done


def digests(fork: Fork) -> tuple[str, str]:
    memory = fork.data.mirror if fork.memory is None else fork.memory.own
    return fork.data.own.digest(), memory.digest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fork")
    _, tokenizer = exported(folder / "export")
    new = [{"relation": "capital", "subject": f"Land{i}", "object": f"City{i}"} for i in range(40)]
    (folder / "new").mkdir()
    spec = run_spec(write_facts(folder))
    files = {p: p.read_bytes() for p in (folder / "export").rglob("*") if p.is_file()}
    return Run(spec, str(folder / "export"), tokenizer, write_facts(folder / "new", new), files)


@pytest.fixture(scope="module")
def without(run: Run) -> Forked:
    return run.forked(False)


@pytest.fixture(scope="module")
def with_memory(run: Run) -> Forked:
    return run.forked(True)


def test_both_start_with_the_weights_of_the_export(
    run: Run, without: Forked, with_memory: Forked
) -> None:
    pair = load_pair(run.export)[0]
    want = tuple(FlatParameters(half, section_of).digest() for half in (pair.data, pair.memory))
    assert without.start == with_memory.start == want


def test_the_fork_with_memory_is_a_lockstep_run_to_the_bit(run: Run, with_memory: Forked) -> None:
    exchange = Exchange(run.fork_spec(True), run.tokenizer.to_json()).run(2)
    assert digests(with_memory.fork) == (exchange.data.own.digest(), exchange.memory.own.digest())
    memory = with_memory.fork.memory
    assert memory is not None
    assert memory.peer_version == with_memory.fork.data.peer_version == 1


def test_the_fork_without_memory_trains_the_data_layer_alone(without: Forked) -> None:
    data, memory = digests(without.fork)
    assert data != without.start[0]
    assert memory == without.start[1]
    assert without.fork.data.num_reading == 0
    gate = dict(without.fork.data.layer.port.named_parameters())["gates.0.bias"]
    assert torch.equal(gate, without.port["gates.0.bias"])  # no weight decay reaches it


def test_reading_trains_the_port(with_memory: Forked) -> None:
    gate = dict(with_memory.fork.data.layer.port.named_parameters())["gates.0.bias"]
    assert not torch.equal(gate, with_memory.port["gates.0.bias"])


def test_both_do_so_many_steps_on_the_same_tokens(without: Forked, with_memory: Forked) -> None:
    assert without.steps == with_memory.steps == [4, 8]
    assert without.fork.data_tokens == with_memory.fork.data_tokens > 0
    assert without.fork.memory_tokens == 0 < with_memory.fork.memory_tokens


def test_what_they_train_on_is_the_other_corpus(run: Run, without: Forked) -> None:
    windows, _ = without.fork.data.stream.next_batch(4)
    text = run.tokenizer.decode(windows.tokens_NT.flatten().tolist())
    assert "Land" in text
    assert "Avaria" not in text


@pytest.mark.usefixtures("without", "with_memory")
def test_nothing_of_the_export_changes(run: Run) -> None:
    assert {p: p.read_bytes() for p in Path(run.export).rglob("*") if p.is_file()} == run.files


def test_a_run_that_was_never_helped_is_helped_in_its_fork(run: Run) -> None:
    losses = run.spec.losses.model_copy(update={"help": 0.0})
    alone = replace(run, spec=run.spec.model_copy(update={"losses": losses}))
    assert alone.fork_spec(True).losses.help == 1.0
    assert alone.fork_spec(False).losses.help == 0.0


def test_a_fork_takes_a_card_only_where_there_is_one(run: Run) -> None:
    workers = run.spec.data.workers.model_copy(update={"gpus": 1.0, "num_workers": 4})
    data = run.spec.data.model_copy(update={"workers": workers})
    on_cards = run.spec.model_copy(update={"data": data})
    for gpus, want in ((True, 1.0), (False, 0.0)):
        found = fork_spec(on_cards, run.export, run.corpus, STEPS, True, gpus)
        assert (found.data.workers.gpus, found.data.workers.num_workers) == (want, 1)
        assert found.memory.workers.gpus == 0.0
