from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from actors.wire import ConfigError
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
