from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.actors.tiny_pair import exported


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a tiny pair, to be served."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    exported(folder)
    return folder
