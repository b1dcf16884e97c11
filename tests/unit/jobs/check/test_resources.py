from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from jobs.check.resources import available_resources, free_disk
from tests.unit.orchestrator.scripted import a_config


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_the_config_gives_out_is_what_there_is() -> None:
    ray = {"num_cpus": 3, "num_gpus": 5, "object_store_mib": 100}
    resources = available_resources(a_config(ray=ray)).resources
    assert resources == {"CPU": 3, "GPU": 5, "object_store_memory": 100 * 2**20}


def test_without_a_word_there_are_this_machines_cpus_and_rays_share_of_its_memory() -> None:
    machine = available_resources(a_config())
    free = psutil.virtual_memory().available
    assert machine.resources["CPU"] == psutil.cpu_count()
    assert 0 < machine.resources["object_store_memory"] <= 0.31 * free


def test_free_disk_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    free = free_disk(str(tmp_path / "runs" / "mine"))
    assert free == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.05)


def test_free_disk_of_other_storage_is_not_known() -> None:
    assert free_disk("s3://bucket/run") is None
