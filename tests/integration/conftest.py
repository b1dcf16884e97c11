from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def in_own_tmp(own_tmp: Path) -> None:
    """Every process of these tests keeps its temporary files where they are swept up."""
