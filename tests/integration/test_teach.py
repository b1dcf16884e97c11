"""`tandem teach` on a tiny run, in this process: what it needs, what it leaves, and its faults."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.layers.kept_reads import KeptReads
from actors.layers.named_writes import Association
from actors.pair.tandem_model import load_tandem_model
from actors.pair.telling import tell
from actors.training.teaching_data import TeachingDataTrainer
from actors.weights.pair_export import load_pair
from actors.weights.writes_store import WritesStore
from actors.wire import ConfigError
from jobs.teach.options import TeachOptions
from jobs.teach.propose import run_propose
from jobs.teach.teach import run_teach
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import load_config
from tests.integration.teaching import (
    LESSONS,
    STEPS,
    digest_of,
    digests,
    teach,
    train_base,
    write_lessons,
)
from tests.integration.tiny import run_in_process


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and its corpus beside it."""
    folder = tmp_path_factory.mktemp("teach")
    train_base(folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, whose corpus is not there."""
    shutil.copytree(trained / "runs" / "base", tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def lessons(tmp_path: Path) -> str:
    return write_lessons(tmp_path)


class Opened:
    """Every file that this process opens while it is watched."""

    def __init__(self) -> None:
        self.paths: list[str] | None = None
        sys.addaudithook(self._heard)  # stays as long as the process

    def _heard(self, event: str, arguments: Any) -> None:
        if event == "open" and self.paths is not None:
            self.paths.append(str(arguments[0]))


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


def test_teaching_needs_no_file_of_the_corpus_and_changes_no_byte_of_the_run(
    trained: Path, run: Path, lessons: str, opened: Opened
) -> None:
    corpus = [trained / name for name in ("facts.jsonl", "templates.json")]
    away = [path.rename(path.with_suffix(".away")) for path in corpus]
    before = digest_of(run)
    opened.paths = []
    try:
        out = teach(run, lessons)
    finally:
        paths, opened.paths = opened.paths, None
        for path in away:
            path.rename(next(c for c in corpus if c.stem == path.stem))
    assert any(path.endswith("written.jsonl") for path in paths), "what is watched is opened"
    assert [path for path in paths if any(c.stem in Path(path).stem for c in corpus)] == []
    assert digest_of(run) == before
    found = json.loads((out / "taught.json").read_text())
    assert [one["prompt"] for one in found["lessons"]] == [row["prompt"] for row in LESSONS]
    assert found["lessons"][2]["bits"] == 1.0
    assert all(one["bits"] > 0 for one in found["lessons"])
    assert found["figures"]["lessons"] == 3


def test_a_dry_run_of_lessons_shows_them_at_once_and_writes_nothing(
    run: Path, lessons: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_arguments: Any) -> list[str]:
        raise AssertionError("the memory writes for minutes")

    monkeypatch.setattr("actors.teaching.lesson_preparation.written_texts", write)
    assert run_teach(str(run), TeachOptions(lessons=lessons, dry_run=True), Console(), True)
    shown = json.loads(capsys.readouterr().out)
    assert [one["prompt"] for one in shown] == [row["prompt"] for row in LESSONS]
    assert not run.with_name("base-taught").exists()


def test_the_result_is_a_run_like_any_other(run: Path, lessons: str) -> None:
    out = teach(run, lessons)
    names = {path.name for path in out.iterdir()}
    assert {"config.yaml", "summary.json", "report.html", "taught.json", "lessons.jsonl",
            "export", "written.jsonl"} <= names  # fmt: skip
    assert (out / "report.html").read_text().count("The capital of Baran is") >= 1
    model = load_tandem_model(find_export(str(out)))
    assert model is not None
    summary = json.loads((out / "summary.json").read_text())
    assert summary["data"]["steps"] == STEPS
    before = json.loads((run / "summary.json").read_text())
    assert summary["digest"]["data"] != before["digest"]["data"]
    assert summary["digest"]["memory"] == before["digest"]["memory"]  # it was told, no more
    (write,) = load_pair(str(out / "export"))[0].memory.writes
    assert (write.id, write.taught, write.on) == ("taught", True, True)
    assert [one.prompt for one in write.associations] == [row["prompt"] for row in LESSONS]
    config = saved_config(RunDir(str(out)))
    assert config.data.layer.pretrained == str(run / "export")


def test_the_same_lessons_and_seed_give_the_same_bits(run: Path, lessons: str) -> None:
    found = []
    for name in ("one", "two"):
        out = teach(run, lessons, out=str(run.parent / name))
        found.append(digests(out))
    assert found[0] == found[1]


def test_an_interrupted_teaching_is_resumed_to_the_same_bits(
    run: Path, lessons: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = teach(run, lessons, out=str(run.parent / "whole"))
    step = TeachingDataTrainer.train_step

    def fail_at_step_5(self: TeachingDataTrainer) -> Any:
        if self.step == 5:
            raise RuntimeError("killed here")
        return step(self)

    before = digest_of(run)
    monkeypatch.setattr(TeachingDataTrainer, "train_step", fail_at_step_5)
    with pytest.raises(RuntimeError, match="killed here"):
        teach(run, lessons)
    monkeypatch.undo()
    assert digest_of(run) == before
    out = Path(f"{run}-taught")
    with pytest.raises(ConfigError, match="the run has no finished export"):
        find_export(str(out))
    with pytest.raises(ConfigError, match=f"go on with: tandem resume {out} --in-process, or"):
        teach(run, lessons)
    config = load_config(str(out / "config.yaml"))
    run_in_process(config, resume=True)
    assert digests(whole) == digests(out)
    assert (out / "taught.json").exists()
    (one,), (other,) = (load_pair(str(it / "export"))[0].memory.writes for it in (whole, out))
    ours, theirs = one.to_tensors(), other.to_tensors()
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def test_what_an_interrupted_preparation_left_is_no_obstacle(run: Path, lessons: str) -> None:
    out = Path(f"{run}-taught")
    out.mkdir()
    (out / "lessons.jsonl").write_text("half a li")
    (out / "exam.json.part").write_text("{")
    (out / "corpus.json").write_text("{}")
    assert (teach(run, lessons) / "taught.json").exists()


def test_a_finished_result_is_never_overwritten(run: Path, lessons: str) -> None:
    out = teach(run, lessons)
    before = digest_of(out)
    with pytest.raises(ConfigError, match="exists already; choose another --out"):
        teach(run, lessons)
    assert digest_of(out) == before


def test_a_later_teaching_begins_from_the_first_layer_with_all_lessons(
    run: Path, lessons: str, tmp_path: Path
) -> None:
    first = teach(run, lessons)
    more = tmp_path / "more.jsonl"
    rows = [{"prompt": "The river of Deste is the", "answer": "Kivia"},
            {**LESSONS[0], "answer": "Denora"}]  # fmt: skip
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = teach(first, str(more))
    found = json.loads((second / "taught.json").read_text())
    assert found["first"] == str(run / "export")
    assert (found["earlier"], found["replaced"]) == (3, 1)
    wanted = {one["prompt"]: one["answer"] for one in found["lessons"]}
    assert len(wanted) == 4
    assert wanted["The capital of Baran is"] == "Denora"
    (write,) = load_pair(str(second / "export"))[0].memory.writes
    assert {one.prompt: one.answer for one in write.associations} == wanted
    assert saved_config(RunDir(str(second))).data.layer.pretrained == str(run / "export")


def test_more_lessons_than_the_steps_can_show_are_refused(run: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    rows = ({"prompt": f"The capital of land {i} is", "answer": f"town {i}"} for i in range(60))
    many.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"--steps 2: the lessons fill .* windows and 2 steps"):
        teach(run, str(many), steps=2)
    assert not Path(f"{run}-taught").exists()


def test_a_run_without_an_export_is_refused(run: Path, lessons: str) -> None:
    shutil.rmtree(run / "export")
    with pytest.raises(ConfigError, match="the run has no finished export"):
        teach(run, lessons)


def test_nothing_to_teach_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="give what is to be taught"):
        run_teach(str(run), TeachOptions(), Console(quiet=True), False)


def told(run: Path, *associations: Association) -> None:
    """Tells the run's memory, one named write for each, and keeps them beside its export."""
    pair, tokenizer = load_pair(str(run / "export"))
    assert pair.memory.kept is not None
    kept = KeptReads.of(pair.memory, pair.memory.kept)
    for number, one in enumerate(associations):
        tell(pair.memory, tokenizer, [one], kept, f"w{number}")
    with WritesStore(str(run / "export")).changing("telling") as change:
        change.keep(pair.memory.writes)


def test_what_was_told_is_taught_and_the_rest_of_it_goes_on_as_it_was(run: Path) -> None:
    told(
        run,
        Association("The capital of Baran is", "Muvia"),
        Association("The dish of Mustran is", "Deste"),
    )
    out = Path(f"{run}-taught")
    options = TeachOptions(told=("w0",), out=str(out), steps=STEPS, written=200)
    run_teach(str(run), options, Console(quiet=True), False)
    lessons = json.loads((out / "taught.json").read_text())["lessons"]
    assert [(one["prompt"], one["answer"]) for one in lessons] == [
        ("The capital of Baran is", "Muvia")
    ]
    after, _ = load_pair(str(out / "export"))
    left, taught = after.memory.writes
    assert (left.id, left.taught, left.associations[0].prompt) == (
        "w1",
        False,
        "The dish of Mustran is",
    )
    assert (taught.taught, taught.associations[0].prompt) == (True, "The capital of Baran is")
    options = TeachOptions(told=("w7",), out=f"{out}-2", steps=STEPS, written=200)
    with pytest.raises(ConfigError, match=r"no write 'w7'; told and not taken back: w0, w1"):
        run_teach(str(run), options, Console(quiet=True), False)


def test_a_run_that_was_told_nothing_has_nothing_to_take_over(run: Path) -> None:
    options = TeachOptions(told=(), steps=STEPS, written=200)
    with pytest.raises(ConfigError, match="its memory was told nothing"):
        run_teach(str(run), options, Console(quiet=True), False)


def test_a_memory_that_is_far_from_the_data_layer_teaches_nothing_by_itself(run: Path) -> None:
    options = TeachOptions(from_memory=True, steps=STEPS, written=200)
    with pytest.raises(ConfigError, match="the memory finds the same token likeliest"):
        run_teach(str(run), options, Console(quiet=True), False)
    assert not Path(f"{run}-taught").exists()


def test_one_thing_is_taught_at_a_time(run: Path, lessons: str) -> None:
    options = TeachOptions(lessons, from_memory=True)
    with pytest.raises(ConfigError, match=r"got --lessons FILE and --from-memory"):
        run_teach(str(run), options, Console(quiet=True), False)


@pytest.mark.long
def test_on_ray_the_bits_are_those_of_one_process(
    run: Path, lessons: str, shared_ray: None
) -> None:
    found = []
    for name, ray in (("here", False), ("there", True)):
        out = teach(run, lessons, out=str(run.parent / name), ray=ray)
        found.append(digests(out))
    assert found[0] == found[1]


def test_proposals_are_lessons_once_a_number_stands_in_them(run: Path, tmp_path: Path) -> None:
    prompts = ["The capital of Baran is", "Baste has its seat in"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    rows = run_propose(str(run), str(file), 3, Console(quiet=True), written=200)
    assert [row["prompt"] for row in rows] == prompts
    assert all(len(row["choices"]) == len(row["probabilities"]) <= 3 for row in rows)
    row = {**rows[0], "choices": ["Kivia", "Denora"]}  # the tiny memory proposes hardly any
    path = tmp_path / "choices.jsonl"
    path.write_text(json.dumps(row))
    options = TeachOptions(str(path), steps=STEPS, written=200)
    with pytest.raises(ConfigError, match="'choice' has to be the number of a choice"):
        run_teach(str(run), options, Console(quiet=True), False)
    path.write_text(json.dumps({**row, "choice": 1, "memory": "0" * 64}))
    with pytest.raises(
        ConfigError, match=r"line 1: these choices were proposed by the memory 0000"
    ):
        run_teach(str(run), options, Console(quiet=True), False)
