"""Tasks of lm-evaluation-harness on a tiny pair: three voices, and the plain model beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.wire import ConfigError
from jobs.cli import app
from jobs.harness.options import TaskOptions
from jobs.harness.tasks import Figure, evaluated, mean_and_error, task_manager
from tests.unit.actors.tiny_pair import exported
from tests.unit.jobs.harness.local_tasks import KINDS, write_tasks

pytestmark = pytest.mark.long  # to import the harness takes seconds
SAYING = "running generate_until requests"  # the harness' word for it
NAMES = tuple(f"capitals_{name}" for name in KINDS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export and tasks."""
    folder = tmp_path_factory.mktemp("harness")
    exported(folder / "tiny")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> TandemModel:
    return load_tandem_model(str(place / "tiny"))


@pytest.fixture(scope="module")
def seen() -> list[tuple[str, int, int | None]]:
    """What progress saw."""
    return []


@pytest.fixture(scope="module")
def found(
    place: Path, model: TandemModel, seen: list[tuple[str, int, int | None]]
) -> dict[tuple[str, str], Figure]:
    """Figures of all tasks, as the harness asks a plain model."""

    def progress(what: str, done: int = 0, total: int | None = None) -> None:
        seen.append((what, done, total))

    options = TaskOptions(
        NAMES,
        str(place / "tasks"),
        batch_size=4,
        base=str(place / "tiny" / "data_layer"),
        as_documents=False,
    )
    figures, counts = evaluated(str(place / "tiny"), model, options, progress)
    assert counts == dict.fromkeys(NAMES, 6)
    return {(figure.task, figure.name): figure for figure in figures}


def test_every_kind_of_task_has_its_figures_by_every_voice(
    found: dict[tuple[str, str], Figure],
) -> None:
    assert set(found) == {
        ("capitals_choose", "acc"),
        ("capitals_rest", "acc"),
        ("capitals_rest", "perplexity"),
        ("capitals_text", "bits_per_byte"),
        ("capitals_say", "exact_match"),
    }
    for figure in found.values():
        assert set(figure.values) == {"base", "own", "help", "memory"}
    bits = found["capitals_text", "bits_per_byte"].values
    assert len({round(bits[voice], 6) for voice in ("own", "help", "memory")}) == 3


def test_the_data_layer_alone_is_the_plain_model_to_the_last_digit(
    found: dict[tuple[str, str], Figure],
) -> None:
    for figure in found.values():
        assert figure.values["own"] == figure.values["base"], figure
        assert figure.errors.get("own") == figure.errors.get("base"), figure


@pytest.mark.usefixtures("found")
def test_progress_says_which_voice_is_asked_and_how_far_it_is(
    seen: list[tuple[str, int, int | None]],
) -> None:
    for voice in ("base", "own", "help", "memory"):
        num = [(n, total) for what, n, total in seen if what == f"{voice}: {SAYING}"]
        assert num[-1] == (6, 6), seen
        assert num[0] == (0, 6)
    assert "own: generating test split" in {what for what, _, _ in seen}  # of its data set


def test_loglikelihoods_are_those_of_a_plain_pass_by_each_voice(
    place: Path, model: TandemModel
) -> None:
    from lm_eval.api.instance import Instance

    from jobs.harness.model import TandemLM

    context, rest = "The capital of Avaria is", " Korvik"
    one = Instance("loglikelihood", {}, (context, rest), 0)
    whole = Instance("loglikelihood_rolling", {}, (f"{context}{rest}",), 0)
    ids = model.tokenizer(f"{context}{rest}", return_tensors="pt").input_ids
    num = len(model.tokenizer(context).input_ids)
    for voice in ("own", "help", "memory"):
        lm = TandemLM(str(place / "tiny"), voice, pair=model)
        with torch.no_grad():
            logp = model(ids, voice=voice).logits[0, :-1].log_softmax(-1)  # type: ignore[arg-type]
        each = logp.gather(1, ids[0, 1:, None])[:, 0]
        [(total, greedy)] = lm.loglikelihood([one], disable_tqdm=True)
        assert total == pytest.approx(float(each[num - 1 :].sum()), abs=1e-4)
        likeliest = logp[num - 1 :].argmax(-1)
        assert greedy == bool((likeliest == ids[0, num:]).all())
        [rolled] = lm.loglikelihood_rolling([whole], disable_tqdm=True)
        assert rolled == pytest.approx(float(each.sum()), abs=1e-4)


def test_what_is_generated_is_what_the_pair_says(place: Path, model: TandemModel) -> None:
    from lm_eval.api.instance import Instance

    from jobs.harness.model import TandemLM

    prompts = ["The capital of Avaria is", "Ships reach Belmont on the old"]
    asked = [
        Instance("generate_until", {}, (p, {"until": ["\x00"], "max_gen_toks": 6}), i)
        for i, p in enumerate(prompts)
    ]
    for voice in ("own", "help", "memory"):
        lm = TandemLM(str(place / "tiny"), voice, pair=model, batch_size=2)
        said = lm.generate_until(asked, disable_tqdm=True)
        wanted = model.ask(prompts, voice=voice, max_new_tokens=6)  # type: ignore[arg-type]
        assert [text.strip() for text in said] == wanted


def test_the_command_shows_the_voices_side_by_side_with_what_the_memory_helps(
    place: Path, found: dict[tuple[str, str], Figure]
) -> None:
    asked = ["evaluate", str(place / "tiny"), "--tasks", str(place / "tasks" / "choose.yaml")]
    done = CliRunner().invoke(app, [*asked, "--json", "--limit", "4"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["num_questions"] == {"capitals_choose": 4}
    [figure] = shown["figures"]
    values: dict[str, Any] = figure["values"]
    assert set(values) == {"own", "help", "memory"}
    assert figure["gain"] == pytest.approx(values["help"] - values["own"])
    assert figure["gain_stderr"] is not None


def test_a_task_that_is_not_there_is_said_with_the_nearest(place: Path) -> None:
    tasks = str(place / "tasks")
    with pytest.raises(ConfigError, match="no task 'capitals_chose'; did you mean 'capitals_choo"):
        task_manager(TaskOptions(("capitals_chose",), tasks))
    with pytest.raises(ConfigError, match=r"no file gone\.yaml"):
        task_manager(TaskOptions(("gone.yaml",)))
    with pytest.raises(ConfigError, match="no folder nowhere"):
        task_manager(TaskOptions(("a",), "nowhere"))


def test_a_mean_has_the_usual_standard_error_and_one_value_none() -> None:
    mean, error = mean_and_error([1.0, 0.0, 0.0, 1.0])
    assert mean == 0.5
    assert error == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean_and_error([2.0]) == (2.0, None)


def test_the_harness_own_command_knows_the_model(place: Path) -> None:
    given = f"run={place / 'tiny'},voice=memory"
    asked = ["--tasks", "capitals_say", "--include_path", str(place / "tasks"), "--limit", "3"]
    output = ["--output_path", str(place / "results.json")]
    command = ["lm-eval", "--model", "tandem", "--model_args", given, *asked, *output]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "capitals_say" in done.stdout
    assert "exact_match" in done.stdout
    [written] = place.glob("results*.json")
    kept = json.loads(written.read_text())
    assert kept["config"]["model"] == "tandem"
    assert kept["n-samples"]["capitals_say"]["effective"] == 3
    wrong = CliRunner().invoke(app, [part.replace("memory", "memry") for part in command])
    assert wrong.exit_code == 2
    assert "voice 'memry': expected one of" in wrong.output
    assert "--model_args" in CliRunner().invoke(app, ["lm-eval", "run", "--help"]).stdout
