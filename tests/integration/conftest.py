from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def in_own_tmp(own_tmp: Path) -> None:
    """Every process of these tests keeps its temporary files where they are swept up."""


@pytest.fixture(scope="module", autouse=True)
def in_reports_without_plots(without_plots: None) -> None:
    """Runs of these modules draw no plots; the modules after them do."""
