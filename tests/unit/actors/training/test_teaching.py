"""The trainers of a run that teaches: what a step minimises, what moves, what replays give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.corpus.corpus import WindowStream, build_tokenizer
from actors.corpus.general_text import general_corpus
from actors.corpus.windows import Windows
from actors.lessons.lesson import Lesson, to_lines
from actors.lessons.lesson_files import Exam
from actors.lessons.told import told_to_lists
from actors.lessons.told_rows import ToldRows
from actors.settings.run import RunSpec
from actors.settings.teach import TeachSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured
from actors.training.memory_trainer import MemoryTrainer
from actors.training.teaching_data import TeachingDataTrainer
from actors.training.teaching_memory import TeachingMemoryTrainer
from actors.training.trainer_kinds import trainer_class
from actors.wire import Told, ToldAssociation
from tests.unit.actors.tiny import COUNTRIES, RUN, order, run_spec, values, write_text

LESSONS = [
    Lesson(f"The capital of {name} is", "Lyon", reworded=(f"{name} is governed from",))
    for name, _ in COUNTRIES[:6]
]


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """A run that teaches six lessons beside fifty lines of text."""
    lines = [
        f"The capital of {a} is {b}, as {i} people know." for a, b in COUNTRIES for i in range(6)
    ]
    corpus = write_text(tmp_path, lines)
    (tmp_path / "lessons.jsonl").write_text(to_lines(LESSONS))
    teach = {"lessons": str(tmp_path / "lessons.jsonl"), "given_frac": 0.25, "reworded_frac": 0.25}
    decay = {"lr": 5e-3, "warmup_steps": 2, "weight_decay": 0.0}
    return run_spec(corpus, teach=teach, data__optimizer=decay)


@pytest.fixture
def tokenizer(spec: RunSpec) -> Tokenizer:
    return build_tokenizer(spec)


@pytest.fixture
def data(spec: RunSpec, tokenizer: Tokenizer) -> TeachingDataTrainer:
    return TeachingDataTrainer(spec, tokenizer.to_json(), RUN)


@pytest.fixture
def memory(spec: RunSpec, tokenizer: Tokenizer) -> TeachingMemoryTrainer:
    return TeachingMemoryTrainer(spec, tokenizer.to_json(), RUN)


def test_a_run_with_lessons_has_trainers_that_teach(spec: RunSpec) -> None:
    plain = spec.model_copy(update={"teach": TeachSpec()})
    kinds = [[trainer_class(s, group) for group in ("data", "memory")] for s in (spec, plain)]
    assert kinds == [[TeachingDataTrainer, TeachingMemoryTrainer], [DataTrainer, MemoryTrainer]]


@pytest.mark.parametrize("general_frac", [None, 0.25])
def test_the_losses_of_a_data_step_are_those_of_a_slow_oracle(
    spec: RunSpec, tokenizer: Tokenizer, general_frac: float | None
) -> None:
    of_data = spec.data.model_copy(update={"general_frac": general_frac})
    shown = spec.model_copy(update={"data": of_data})
    data = TeachingDataTrainer(shown, tokenizer.to_json(), RUN)
    with torch.no_grad():  # so that the layer differs from the one before
        for parameter in data.layer.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    oracle = data_oracle(data)
    step = data.train_step()
    found = {name: step.shares[name] for name in ("lessons", "reworded", "rehearsed", "loss")}
    assert found == pytest.approx(oracle, rel=1e-4)
    assert oracle["rehearsed"] > 1e-3


@pytest.fixture
def beside(spec: RunSpec, tmp_path: Path) -> RunSpec:
    """The same in larger batches, with text of the data layer's own."""
    own = [f"{name} is a country with {len(name)} rivers." for name, _ in COUNTRIES]
    (tmp_path / "own_text.json").write_text(json.dumps(own))
    teach = spec.teach.model_copy(update={"own_text": str(tmp_path / "own_text.json")})
    of_data = spec.data.model_copy(update={"batch_size": 10})
    return spec.model_copy(update={"teach": teach, "data": of_data})


def test_with_text_of_its_own_the_losses_are_those_of_a_slow_oracle(
    beside: RunSpec, tokenizer: Tokenizer
) -> None:
    data = TeachingDataTrainer(beside, tokenizer.to_json(), RUN)
    assert (data.num_given, data.num_reworded) == (2, 2)
    assert len(data.own_text) > 0
    with torch.no_grad():
        for parameter in data.layer.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    oracle = data_oracle(data)
    step = data.train_step()
    names = ("lessons", "reworded", "rehearsed", "loss")
    assert {name: step.shares[name] for name in names} == pytest.approx(oracle, rel=1e-4)
    assert oracle["rehearsed"] > 1e-3
    assert beside.teach.own_count(10 - 4) == 3


def data_oracle(trainer: TeachingDataTrainer) -> dict[str, float]:
    """Position by position, window by window."""
    spec, window = trainer.spec, trainer.spec.corpus.window
    stream, num_general = WindowStream(trainer.corpus, "data"), spec.data.num_general
    num_lessons = trainer.num_given + trainer.num_reworded
    num = spec.data.batch_size - num_lessons - num_general
    num_own = spec.teach.own_count(num)
    text = stream.next_batch(num - num_own)[0]
    text = Windows.concat([text, trainer.own_text.batch(0, num_own)])
    if num_general:
        general = WindowStream(general_corpus(spec, trainer.tokenizer), "general")
        text = Windows.concat([text, general.next_batch(num_general)[0]])
    parts = {
        "lessons": trainer.given.batch(0, trainer.num_given),
        "reworded": trainer.reworded.batch(0, trainer.num_reworded),
        "rehearsed": text,
    }
    found = {}
    for name, windows in parts.items():
        sums, num = 0.0, 0
        for row in range(len(windows)):
            tokens = torch.tensor(windows.tokens_NT[row], dtype=torch.long)[None]
            segments = torch.tensor(windows.segments_NT[row], dtype=torch.long)[None]
            with torch.no_grad():
                now, before = (
                    layer(tokens, segments).logits_BTV[0].log_softmax(-1)
                    for layer in (trainer.layer, trainer.reference)
                )
            for at in range(window - 1):
                after = windows.segments_NT[row, at + 1]
                if after < 0 or after != windows.segments_NT[row, at]:
                    continue
                if not windows.learn_NT[row, at + 1]:
                    continue
                num += 1
                if name == "rehearsed":
                    sums += float((before[at].exp() * (before[at] - now[at])).sum())
                else:
                    sums -= float(now[at, tokens[0, at + 1]])
        found[name] = sums / num
    weighted = found["lessons"] + found["reworded"] + spec.teach.rehearse * found["rehearsed"]
    return {**found, "loss": weighted}


def test_the_reference_and_the_port_stay_as_they_were(data: TeachingDataTrainer) -> None:
    reference = [p.clone() for p in data.reference.parameters()]
    port = [p.clone() for p in data.layer.port.parameters()]
    model = [p.clone() for p in data.layer.model.parameters()]
    for _ in range(3):
        data.train_step()
        data.step += 1
    assert all(map(torch.equal, reference, data.reference.parameters()))
    assert all(map(torch.equal, port, data.layer.port.parameters()))
    assert not all(map(torch.equal, model, data.layer.model.parameters()))


def test_lessons_are_learned_in_all_their_wordings(data: TeachingDataTrainer) -> None:
    first = values(data.train_step())
    for _ in range(60):
        data.step += 1
        data.train_step()
    data.step += 1
    last = values(data.train_step())
    for name in ("lessons", "reworded"):
        assert last[name] < 0.5 * first[name]


def test_without_other_wordings_all_lessons_are_as_given(spec: RunSpec, tmp_path: Path) -> None:
    assert spec.teach.data_counts(20, reworded=True) == (5, 5)
    assert spec.teach.data_counts(20, reworded=False) == (10, 0)
    assert spec.teach.data_counts(2, reworded=False)[0] >= 1


def test_shares_that_leave_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"leaves no\s+sequence for text that keeps the old"):
        TeachSpec(given_frac=0.6, reworded_frac=0.4)


def test_recall_of_the_lessons_waits_for_a_layer_that_was_taught(
    memory: TeachingMemoryTrainer,
) -> None:
    part, first = memory_part(memory)
    logits_NV, teacher_NV = memory_predictions(memory, part)
    at = int(part.host.valid_BT.sum(1)[:first].sum())
    p_NV = teacher_NV.softmax(-1)
    kl_N = (p_NV * (teacher_NV.log_softmax(-1) - logits_NV.log_softmax(-1))).sum(-1)
    num = len(kl_N)
    for version, wanted in ((0, kl_N[at:].mean()), (1, kl_N.mean())):
        memory.peer_version = version
        step = Measured()
        memory._learn_followed(part, first, at, num - at, step)
        step.read()
        assert step.shares["recall"] == pytest.approx(float(wanted), rel=1e-5)
        own = F.cross_entropy(logits_NV[:at], part.targets_N[:at])
        assert step.shares["self"] == pytest.approx(float(own), rel=1e-5)


def test_a_step_in_parts_is_the_step_at_once(spec: RunSpec, tokenizer: Tokenizer) -> None:
    few = spec.model_copy(update={"logit_tokens": 7})
    for kind in (TeachingDataTrainer, TeachingMemoryTrainer):
        steps, layers = [], []
        for some in (spec, few):
            trainer = kind(some, tokenizer.to_json(), RUN)
            steps.append([values(trainer.train_step()), values(next_step(trainer))])
            layers.append(trainer.own.buffer.view(torch.float32).clone())
        for at_once, in_parts in zip(*steps, strict=True):
            assert in_parts == pytest.approx(at_once, rel=1e-3)
        assert torch.allclose(*layers, atol=2e-4)


def next_step(trainer):  # type: ignore[no-untyped-def]
    trainer.step += 1
    return trainer.train_step()


def memory_part(trainer: TeachingMemoryTrainer):  # type: ignore[no-untyped-def]
    from actors.corpus.windows import Windows
    from actors.layers.batch import to_batch

    text, _ = trainer.fresh.next_batch(2)
    windows = Windows.concat([trainer.lessons.batch(0, 2), text])
    return to_batch(windows, torch.device("cpu")), 2


@torch.no_grad()
def memory_predictions(trainer: TeachingMemoryTrainer, part):  # type: ignore[no-untyped-def]
    from actors.layers.batch import data_logits_at, memory_logits_at

    return memory_logits_at(trainer.layer, part), data_logits_at(trainer.teacher, part)


def test_the_memory_is_kept_as_it_was_on_the_text(memory: TeachingMemoryTrainer) -> None:
    assert memory.train_step().shares["kept"] == pytest.approx(0.0, abs=1e-6)
    memory.step += 1
    assert memory.train_step().shares["kept"] > 0


def test_the_memory_begins_with_the_rows_that_telling_changes(
    spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    dim = spec.memory.layer.dim
    rows = ToldRows(torch.tensor([3, 9]), torch.ones(2, dim))
    (tmp_path / "told.safetensors").write_bytes(rows.to_bytes())
    told = spec.teach.model_copy(update={"told": str(tmp_path / "told.safetensors")})
    plain = TeachingMemoryTrainer(spec, tokenizer.to_json(), RUN)
    other = TeachingMemoryTrainer(spec.model_copy(update={"teach": told}), tokenizer.to_json(), RUN)
    differs_R = (other.layer.values != plain.layer.values).any(1)
    assert differs_R.nonzero()[:, 0].tolist() == [3, 9]
    assert torch.equal(other.kept.values, plain.layer.values)


def test_a_memory_that_was_told_the_lessons_keeps_its_weights_and_publishes_what_it_was_told(
    spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    told = Told("taught", 1.0, (ToldAssociation("The capital of Avaria is", "Lyon"),), taught=True)
    exam = tmp_path / "exam.json"
    exam.write_text(Exam(told=tuple(told_to_lists([told]))).to_json())
    teach = spec.teach.model_copy(update={"memory_train": "nothing", "exam": str(exam)})
    changed = spec.model_copy(update={"teach": teach})
    data = TeachingDataTrainer(changed, tokenizer.to_json(), RUN)
    memory = TeachingMemoryTrainer(changed, tokenizer.to_json(), RUN)
    before = memory.own.buffer.clone()
    header, buckets = data.publish()
    done = memory.interval(order(1), [header], buckets)
    assert torch.equal(memory.own.buffer, before)
    assert done.header is not None
    assert done.header.told == (told,)
    assert not any(name.endswith("loss") for name in done.report.shares)


@pytest.mark.parametrize("moves", ["values", "all"])
def test_what_of_the_memory_moves_is_a_setting(
    spec: RunSpec, tokenizer: Tokenizer, moves: str
) -> None:
    teach = spec.teach.model_copy(update={"memory_train": moves})
    trainer = TeachingMemoryTrainer(
        spec.model_copy(update={"teach": teach}), tokenizer.to_json(), RUN
    )
    before = {name: p.detach().clone() for name, p in trainer.layer.named_parameters()}
    step = trainer.train_step()
    moved = {n for n, p in trainer.layer.named_parameters() if not torch.equal(p, before[n])}
    assert "values" in moved
    assert (moved == {"values"}) == (moves == "values")
    assert ("encoder" in step.shares) == (moves == "all")


def run_intervals(spec: RunSpec, tokenizer_json: str, stop: int | None) -> list[Tensor]:
    """Both layers after three intervals in lockstep; restored from a checkpoint after `stop`."""
    data = TeachingDataTrainer(spec, tokenizer_json, RUN)
    memory = TeachingMemoryTrainer(spec, tokenizer_json, RUN)
    published = copies(data.publish()), copies(memory.publish())
    for number in (1, 2, 3):
        now = order(number, checkpoint=number == stop)
        (of_data, of_memory) = published
        done = data.interval(now, [of_memory[0]], of_memory[1])
        followed = memory.interval(now, [of_data[0]], of_data[1])
        published = copies((done.header, done.buckets)), copies((followed.header, followed.buckets))
        if number == stop:
            saved = [
                (o.checkpoint_header, [b.copy() for b in o.checkpoint_buckets])
                for o in (done, followed)
            ]
            data = TeachingDataTrainer(spec, tokenizer_json, RUN)
            memory = TeachingMemoryTrainer(spec, tokenizer_json, RUN)
            for trainer, (header, buckets) in zip((data, memory), saved, strict=True):
                trainer.restore([header], buckets)
    return [data.own.buffer.clone(), memory.own.buffer.clone()]


def copies(published):  # type: ignore[no-untyped-def]
    header, buckets = published
    return header, [bucket.copy() for bucket in buckets]


def test_a_replay_from_a_checkpoint_gives_the_same_bits(
    spec: RunSpec, tokenizer: Tokenizer
) -> None:
    whole = run_intervals(spec, tokenizer.to_json(), None)
    resumed = run_intervals(spec, tokenizer.to_json(), 2)
    assert all(map(torch.equal, whole, resumed))


def test_two_ranks_add_up_to_the_losses_of_one(spec: RunSpec, tokenizer: Tokenizer) -> None:
    alone = TeachingDataTrainer(spec, tokenizer.to_json(), RUN).train_step().shares
    sums: dict[str, float] = {}
    for rank in range(2):
        trainer = TeachingDataTrainer(spec, tokenizer.to_json(), RUN, rank, 2)
        for name, value in trainer.train_step().shares.items():
            sums[name] = sums.get(name, 0.0) + value
    for name in ("lessons", "reworded", "rehearsed"):
        assert sums[name] == pytest.approx(alone[name], rel=1e-4)


def test_a_missing_file_of_lessons_is_refused(spec: RunSpec, tokenizer: Tokenizer) -> None:
    gone = spec.model_copy(update={"teach": TeachSpec(lessons="/nowhere/lessons.jsonl")})
    with pytest.raises(ValueError, match=r"teach\.lessons /nowhere/lessons\.jsonl: can't be read"):
        TeachingDataTrainer(gone, tokenizer.to_json(), RUN)


def test_a_malformed_file_of_lessons_is_refused(
    spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"question": "a"}))
    odd = spec.model_copy(update={"teach": TeachSpec(lessons=str(path))})
    with pytest.raises(ValueError, match="not what `tandem teach` writes"):
        TeachingDataTrainer(odd, tokenizer.to_json(), RUN)
