"""An object store that holds what is exchanged and no more: the rest lies on disk, for a replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.internal_api import node_stats

from actors.settings.run import DATA
from orchestrator.run import train
from orchestrator.settings.config import load_config
from tests.chaos.injector import Faults, fail_at
from tests.integration.test_trained_part import save_base
from tests.integration.tiny import run_in_process

MIB = 1 << 20
STORE_MIB = 80  # the smallest that Ray takes
# A version of the memory has 6 MiB: all that a replay needs, some 160 MiB, is twice the store.
SETTINGS = (
    "intervals=16",
    "checkpoints.every=14",
    "evaluation.every=0",
    "data.steps_per_interval=1",
    "memory.steps_per_interval=1",
    "memory.layer.slots_side=224",
    "memory.layer.dim=32",
)


@pytest.fixture
def small_store(own_tmp: Path, ray_ends_here: None) -> Iterator[None]:
    if ray.is_initialized():
        ray.shutdown()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="CRITICAL", object_store_memory=STORE_MIB * MIB,
    )  # fmt: skip
    yield
    ray.shutdown()


def spilled_bytes() -> int:
    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.spilled_bytes_total)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("small_store")
def test_a_replay_adopts_versions_that_were_moved_to_disk(workplace: Path, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama")  # adapters alone are published and replayed

    def config(name: str) -> Any:
        layer = [f"data.layer={{pretrained: {base}, read_layers: [0, 1], train: lora}}"]
        settings = [*SETTINGS, *layer, f"storage={tmp_path}", f"name={name}"]
        return load_config(str(workplace / "tiny.yaml"), settings)

    whole = run_in_process(config("whole")).summary
    faults = Faults(tmp_path / "faults", fail_at(DATA, 0, 13, "in a step"))
    with faults.injected():
        again = train(config("killed")).summary
    assert faults.fired() == [1]
    assert again["digest"] == whole["digest"]
    assert spilled_bytes() > 20 * MIB
    kept = config("sizes").retention.kept_bytes([6 * MIB], [12 * MIB])
    assert kept > 1.5 * STORE_MIB * MIB
