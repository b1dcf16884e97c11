"""A start that takes too long says which ranks are waited for, and how far each has come."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import GROUPS
from orchestrator.errors import GroupFailedError
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.run import _Corpus, train
from orchestrator.settings.config import Config, load_config

pytestmark = pytest.mark.usefixtures("shared_ray")


def failure(config: Config) -> str:
    with pytest.raises(GroupFailedError) as failed:
        train(config)
    return str(failed.value)


@pytest.mark.long  # waits for a start of 30 s to be late
def test_ranks_that_read_the_corpus_are_named_with_it(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their templates are with a server that never answers. The driver reads others."""
    whole = load_config(str(workplace / "tiny.yaml"))
    known = _Corpus.read(whole, None, print)
    monkeypatch.setattr(_Corpus, "read", lambda *_: known)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = load_config(
            str(workplace / "tiny.yaml"),
            [
                "name=late",
                f"storage={tmp_path}",
                f"corpus.templates=http://127.0.0.1:{silent.getsockname()[1]}/templates.json",
                "deadlines.start_s=30",
            ],
        )
        text = failure(config)
    assert "was not ready after 30 s (waiting for " in text
    for group in GROUPS:
        assert f"{group} rank 0: taking its device and reading the corpus, for " in text
    assert "raise deadlines.start_s" in text


@pytest.mark.long
def test_processes_that_ray_has_not_started_are_named_so(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resources are reserved as ever; the deadline begins with the processes."""
    real = RayCluster.start

    def at_once(self: RayCluster, *arguments: Any) -> Any:
        hurried = self._config.model_copy(
            update={"deadlines": self._config.deadlines.model_copy(update={"start_s": 0.01})}
        )
        monkeypatch.setattr(self._launcher, "_config", hurried)
        return real(self, *arguments)

    monkeypatch.setattr(RayCluster, "start", at_once)
    config = load_config(str(workplace / "tiny.yaml"), ["name=late-process"])
    text = failure(config)
    assert "has no process yet after 0.01 s" in text
    assert "Ray has not started its process yet" in text or "waiting to start" in text
