"""`tandem learn MODEL`: a memory for a model that has none, in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actors.wire import ConfigError
from jobs.evaluate.run import run_evaluation
from jobs.init_model import Model
from jobs.learn.first_memory import (
    FirstOptions,
    first_config,
    is_model,
    learn_model,
    refuse_neither,
)
from jobs.learn.learn import LearnOptions, run_learn
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from tests.integration.tiny import write_corpora
from tests.unit.actors.tiny import save_checkpoint
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

QUIET = Console(quiet=True)
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside others: more threads than free CPUs wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda process: {0})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts, text, and a plain model of two layers with its tokenizer."""
    place = tmp_path_factory.mktemp("first")
    write_corpora(place)
    save_checkpoint(place / "model", rows=400, max_position_embeddings=64)
    saved(place / "model", byte_level("<|endoftext|>"), eos_token="<|endoftext|>")
    return place


@pytest.fixture(scope="module")
def learned(folder: Path) -> Path:
    """The run that learning the facts made."""
    options = FirstOptions(
        facts=str(folder / "facts.jsonl"),
        templates=str(folder / "templates.json"),
        out=str(folder / "runs" / "known"),
        steps=40,
    )
    learn_model(str(folder / "model"), options, QUIET, as_json=False)
    return folder / "runs" / "known"


def test_the_memory_learns_and_the_model_keeps_its_bits(folder: Path, learned: Path) -> None:
    summary = json.loads((learned / "summary.json").read_text())
    assert (summary["status"], summary["reflects_final_verdict"]) == ("finished", "unchanged")
    assert summary["heldout"]["self_loss"] < summary["heldout"]["own_loss"] - 1
    before = load_file(folder / "model" / "model.safetensors")
    after = load_file(learned / "export" / "data_layer" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_general_text_is_shown_and_alone_it_costs_nothing(learned: Path, folder: Path) -> None:
    heldout = json.loads((learned / "summary.json").read_text())["heldout"]
    assert heldout["general_own_loss"] > 0
    assert heldout["general_help_loss"] > 0


def test_the_result_is_a_run_like_any_other(learned: Path) -> None:
    summary = json.loads((learned / "summary.json").read_text())
    again = run_evaluation(str(learned), QUIET, as_json=False)
    assert again["accuracy"] == summary["accuracy"]
    assert again["heldout"]["general_own_loss"] == pytest.approx(
        summary["heldout"]["general_own_loss"]
    )
    assert not is_model(str(learned))


def test_learning_again_trains_memory_and_port_and_the_model_keeps_its_bits(
    learned: Path, folder: Path
) -> None:
    options = LearnOptions(
        facts=str(folder / "facts.jsonl"), steps=2, out=str(folder / "runs" / "again")
    )
    found = run_learn(str(learned), options, QUIET, as_json=False)
    assert found["new_tokens"] > 0
    assert found["port"] == {"steps": 1, "lr": 0.01}
    again = folder / "runs" / "again"
    files = [f"export/data_layer/{name}" for name in ("model.safetensors", "config.json")]
    assert all((again / name).read_bytes() == (learned / name).read_bytes() for name in files)
    port = "export/memory_port/port.safetensors"
    assert (again / port).read_bytes() != (learned / port).read_bytes()
    markers = [json.loads((run / "export" / "export.json").read_text()) for run in (learned, again)]
    assert markers[0]["base"] == markers[1]["base"]
    summary = json.loads((again / "summary.json").read_text())
    assert (summary["status"], summary["reflects_final_verdict"]) == ("finished", "unchanged")


def test_text_is_learned_too(folder: Path) -> None:
    options = FirstOptions(
        text=str(folder / "text.txt"), out=str(folder / "runs" / "text"), steps=20
    )
    config = first_config(str(folder / "model"), options)
    assert (config.corpus.kind, config.data.layer.train, config.intervals) == ("text", "port", 1)
    assert config.corpus.window <= 64  # the positions of that model


def test_the_number_of_steps_follows_the_corpus(folder: Path) -> None:
    options = FirstOptions(
        facts=str(folder / "facts.jsonl"), templates=str(folder / "templates.json")
    )
    config = first_config(str(folder / "model"), options)
    assert config.intervals * config.memory.steps_per_interval >= 80
    assert config.run_url.endswith("/runs/model-memory")


@pytest.mark.parametrize(("asked", "intervals", "each"), [(5, 1, 5), (20, 1, 20), (50, 3, 17)])
def test_the_memory_makes_the_steps_that_are_asked_for_in_intervals_of_one_length(
    folder: Path, asked: int, intervals: int, each: int
) -> None:
    options = FirstOptions(text=str(folder / "text.txt"), steps=asked)
    config = first_config(str(folder / "model"), options)
    assert (config.intervals, config.memory.steps_per_interval) == (intervals, each)
    assert config.data.steps_per_interval == each  # beside a small model as many


def test_a_result_that_is_there_is_refused_by_the_option_that_says_where(
    learned: Path, folder: Path
) -> None:
    options = FirstOptions(text=str(folder / "text.txt"), out=str(learned))
    with pytest.raises(ConfigError, match=r"known exists already; choose another --out"):
        learn_model(str(folder / "model"), options, QUIET, as_json=False)
    options = FirstOptions(text=str(folder / "text.txt"), out="runs/my memory")
    with pytest.raises(ConfigError, match="--out my memory: name: expected letters, digits, dots"):
        first_config(str(folder / "model"), options)
    options = FirstOptions(text=str(folder / "text.txt"), out=f"{folder}/runs/closed/")
    assert first_config(str(folder / "model"), options).run_url == f"{folder}/runs/closed"
    half = folder / "runs" / "half"
    half.mkdir()
    (half / "config.yaml").write_text("name: half\n")
    options = FirstOptions(text=str(folder / "text.txt"), out=str(half))
    with pytest.raises(ConfigError, match=r"half: this learning was interrupted; go on with: tand"):
        learn_model(str(folder / "model"), options, QUIET, as_json=False)


def test_a_place_that_is_neither_run_nor_model_is_named(learned: Path, folder: Path) -> None:
    refuse_neither(str(learned))
    for place in (folder / "gone", folder / "runs"):
        with pytest.raises(ConfigError, match=r"neither a run .* nor a model"):
            refuse_neither(str(place))
    with pytest.raises(ConfigError, match=r"nor a model .*; did you mean .*/model\?"):
        refuse_neither(str(folder / "modle"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FirstOptions(), "either --facts FILE or --text CORPUS"),
        (FirstOptions(facts="f.jsonl"), "facts need wordings, and a model has none"),
        (FirstOptions(text="t.txt", templates="w.json"), "text has none"),
        (FirstOptions(text="missing.txt"), "missing.txt"),
    ],
)
def test_what_is_missing_is_named(folder: Path, options: FirstOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        first_config(str(folder / "model"), options)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("line.txt", "One line of text.\n", r"lower corpus\.block_bytes"),
        ("chats.jsonl", json.dumps({"messages": CHAT}) + "\n", r"set tokenizer\.chat_template to"),
    ],
)
def test_where_a_setting_is_advised_it_is_said_how_to_set_it(
    folder: Path, tmp_path: Path, name: str, content: str, advice: str
) -> None:
    (tmp_path / name).write_text(content * (1 if name.endswith("txt") else 200))
    options = FirstOptions(text=str(tmp_path / name), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=rf"{advice}[^`]*`tandem init .*/model --kind text`"):
        learn_model(str(folder / "model"), options, QUIET, as_json=False)
    options = FirstOptions(text=str(tmp_path / "gone.txt"), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"gone\.txt: no such file[^`]*$"):
        learn_model(str(folder / "model"), options, QUIET, as_json=False)


def test_a_model_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "bare")
    assert is_model(str(tmp_path / "bare"))
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in that folder"):
        Model.at(str(tmp_path / "bare"))


def test_a_place_is_a_model_by_its_files_and_a_run_by_its_own(folder: Path, tmp_path: Path) -> None:
    assert is_model(str(folder / "model"))
    assert is_model("owner/model")
    assert not is_model(str(tmp_path))
    assert not is_model("runs/gone/deep")
    (folder / "model" / "sub").mkdir(exist_ok=True)
    assert not is_model(str(folder / "model" / "sub"))


def test_the_runs_config_is_that_of_init(learned: Path) -> None:
    config = saved_config(RunDir(str(learned)))
    assert (config.data.layer.train, config.tokenizer.pretrained) == (
        "port",
        config.data.layer.pretrained,
    )
