"""What becomes of an export that the evaluator refuses."""

from __future__ import annotations

from typing import Any

import pytest

from actors.wire import ExportError
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.settings.config import make_config

CONFIG = {"name": "x", "corpus": {"paths": ["x.txt"]}}


class WrappedError(Exception):
    """As Ray wraps what an actor raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Refusing:
    """An evaluator whose export is never what was trained."""

    def __init__(self) -> None:
        self.export = self
        self.asked = 0

    def remote(self, _directory: str) -> None:
        self.asked += 1


def test_an_export_that_is_not_what_was_trained_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get(*_args: Any, **_options: Any) -> None:
        raise WrappedError(ExportError("1 tensors differ: data_layer: lm_head.weight (missing)"))

    monkeypatch.setattr("orchestrator.processes.ray_cluster.ray.get", get)
    cluster = object.__new__(RayCluster)
    evaluator = Refusing()
    vars(cluster).update(_config=make_config(CONFIG), _evaluator=evaluator, _last_pair=None)
    with pytest.raises(ExportError, match=r"lm_head\.weight"):
        cluster.export("somewhere")
    assert evaluator.asked == 1
