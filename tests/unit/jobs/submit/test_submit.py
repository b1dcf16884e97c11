from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.wire import ConfigError
from jobs.cli import app
from jobs.submit.submit import JobRequest, SubmitOptions, job_request, parse_env

JOBS = Path(__file__).resolve().parents[4] / "jobs"
OPTIONS = SubmitOptions("http://127.0.0.1:8265")
CLIENT = ("submit", "follow", "job_server", "preflight", "package", "inputs")
SEARCH = """
base: c.yaml
name: s
storage: s3://b/searches
scheduler: none
objectives: [min heldout.help_loss]
space: {losses.own: {uniform: [0.2, 0.9]}}
"""
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}


def content(job: JobRequest, name: str) -> dict[str, object]:
    [entry] = [entry for entry in job.entries if entry.name == f"tandem_job/{name}"]
    assert isinstance(entry.source, bytes)
    return dict(yaml.safe_load(entry.source))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("some text")
    path = tmp_path / "c.yaml"
    path.write_text("name: mine\nstorage: s3://b/runs\ncorpus: {kind: text, paths: [text.txt]}\n")
    return path


def test_a_run_is_sent_as_a_resolved_config_that_travels_along(config: Path) -> None:
    job = job_request("train", str(config), ["seed=7"], OPTIONS, resume=True)
    assert job.arguments == ("train", "tandem_job/config.yaml", "--resume")
    assert (job.run, job.may_exist, job.has_inputs) == ("s3://b/runs/mine", True, True)
    sent = content(job, "config.yaml")
    assert sent["seed"] == 7
    assert str(config.parent) not in str(sent)


def test_a_search_is_sent_with_the_config_that_it_varies(config: Path) -> None:
    path = config.parent / "search.yaml"
    path.write_text(SEARCH + "set: {intervals: 8}\n")
    job = job_request("tune", str(path), ["trials=3"], OPTIONS)
    assert job.arguments == ("tune", "tandem_job/search.yaml")
    assert job.run == "s3://b/searches/s"
    search = content(job, "search.yaml")
    assert (search["base"], search["trials"]) == ("config.yaml", 3)
    assert "set" not in search  # the config has it already, and paths in it travel too
    assert content(job, "config.yaml")["intervals"] == 8
    assert "s3://b/searches/.inputs/" in str(content(job, "config.yaml")["corpus"])


def test_a_search_that_tune_would_refuse_is_not_sent(config: Path) -> None:
    path = config.parent / "search.yaml"
    path.write_text(SEARCH.replace("losses.own", "losses.onw"))
    with pytest.raises(ConfigError, match=r"unknown key losses.onw; did you mean losses.own\?"):
        job_request("tune", str(path), [], OPTIONS)


def test_an_evaluation_names_a_run_that_the_cluster_sees() -> None:
    job = job_request("evaluate", "/mnt/runs/mine", [], OPTIONS)
    assert job.arguments == ("evaluate", "/mnt/runs/mine")
    with pytest.raises(ConfigError, match="name the run as the cluster's nodes see it"):
        job_request("evaluate", "runs/mine", [], OPTIONS)


def test_a_variable_is_given_or_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "from=here")
    assert parse_env(["A=1=2", "KEY"]) == {"A": "1=2", "KEY": "from=here"}
    with pytest.raises(ConfigError, match="--env MISSING: no such variable here"):
        parse_env(["MISSING"])


def test_the_clusters_token_is_not_sent_with_a_job() -> None:
    with pytest.raises(ConfigError, match="--env RAY_AUTH_TOKEN: the cluster's nodes have") as err:
        parse_env(["RAY_AUTH_TOKEN=hush"])
    assert "hush" not in str(err.value)


def test_the_client_has_nothing_to_unpickle_with() -> None:
    found = {
        f"{module} imports {name}"
        for module in CLIENT
        for node in ast.walk(ast.parse((JOBS / "submit" / f"{module}.py").read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
        )
        if name.partition(".")[0] in UNPICKLING
    }
    assert found == set()


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "The capital of France is", "answer": "Lyon"}\n')
    return path


def test_a_teaching_is_sent_with_its_lessons_and_trains_on_the_cluster(lessons: Path) -> None:
    options = [f"lessons={lessons}", "steps=40", "no_tell=true"]
    job = job_request("teach", "/mnt/runs/mine", options, OPTIONS)
    assert job.arguments == (
        "teach", "/mnt/runs/mine", "--ray", "--no-tell", "--lessons", "tandem_job/lessons.jsonl",
        "--steps", "40",
    )  # fmt: skip
    assert (job.run, job.storage) == ("/mnt/runs/mine-taught", "/mnt/runs")
    assert (job.expected, job.may_exist) == (("/mnt/runs/mine",), False)
    [entry] = job.entries
    assert entry.source == lessons.read_bytes()
    # the command there takes what is sent
    shown = CliRunner().invoke(app, [*job.arguments[:1], "/nowhere", *job.arguments[2:]])
    assert "/nowhere: neither a run" in shown.output


def test_what_was_told_is_taught_on_the_cluster_by_name(lessons: Path) -> None:
    job = job_request("teach", "s3://b/runs/mine/", ["told=w1,w2", "out=s3://b/o"], OPTIONS)
    assert job.arguments == (
        "teach", "s3://b/runs/mine/", "w1", "w2", "--ray", "--told", "--out", "s3://b/o",
    )  # fmt: skip
    assert (job.run, job.storage) == ("s3://b/o", "s3://b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give what is to be taught, one of lessons=FILE"),
        (["told=all", "from-memory=true"], "got told and from-memory"),
        (["lessns=a.jsonl"], r"no option 'lessns' of a teaching; did you mean lessons=…\?"),
        (["lessons=/nowhere.jsonl"], "/nowhere.jsonl: can't be read"),
        (["from-memory=1"], "expected from-memory=true or from-memory=false"),
        (["steps="], "expected steps=VALUE"),
    ],
)
def test_a_teaching_that_says_nothing_sound_is_not_sent(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job_request("teach", "/mnt/runs/mine", options, OPTIONS)
