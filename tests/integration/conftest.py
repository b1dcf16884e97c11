from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def in_own_tmp(own_tmp: Path) -> None:
    """Every process of these tests keeps its temporary files where they are swept up."""


@pytest.fixture(scope="session", autouse=True)
def without_plots() -> Iterator[None]:
    """Reports of runs in this process have no plots: drawing them takes longer than a tiny run.
    Runs of commands in processes of their own draw them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.reporting.report.all_plots", lambda metrics: [])
        yield
