from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.integration.tiny import write_config, write_corpora

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the shared Ray are marked as those that start one of their own mark themselves."""
    for item in items:
        if "shared_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """TMPDIR of the session and of all processes it starts, so that what is left in it is ours.

    Short, since the paths of Ray's sockets may have 107 characters.
    """
    tmp_path_factory.getbasetemp()  # stays where it was, for whoever looks into a failure
    folder = Path(tempfile.mkdtemp(prefix="td-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, `tiny.yaml` and, once there are any, `runs/`."""
    folder = tmp_path_factory.mktemp("workplace")
    write_corpora(folder)
    write_config(folder)
    return folder


@pytest.fixture(scope="session")
def ray_ends_here(own_tmp: Path) -> Iterator[None]:
    """Ends, with the session, the Ray that its modules share."""
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def shared_ray(own_tmp: Path, ray_ends_here: None) -> None:
    """One Ray for all runs inside this process, started from a folder that no run knows.

    Its workers find the packages as they would where Tandem is installed. A module that needs
    another Ray shuts it down; the next one that needs this starts it again.
    """
    if not ray.is_initialized():
        start_ray(own_tmp)


def start_ray(folder: Path) -> None:
    """Starts a Ray of two CPUs as if from that folder."""
    before = Path.cwd()
    os.chdir(folder)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="CRITICAL",
    )
    os.chdir(before)


@pytest.fixture(scope="module")
def without_plots() -> Iterator[None]:
    """Reports of runs in this process have no plots: drawing them takes longer than a tiny run.
    Runs of commands in processes of their own draw them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.reporting.report.all_plots", lambda metrics: [])
        patch.setattr("orchestrator.reporting.taught_report.teaching_plots", lambda metrics: [])
        yield
