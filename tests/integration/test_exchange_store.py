"""The object store over many exchanges: a version that nobody needs any more is let go."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray._private.internal_api import node_stats

from orchestrator.run import train
from orchestrator.settings.config import load_config

INTERVALS = 100  # of each group: 200 exchanges


def store_bytes() -> int:
    """Bytes of the local object store that are in use."""
    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.object_store_bytes_used)


@pytest.mark.long
@pytest.mark.usefixtures("shared_ray")
def test_the_object_store_stays_flat_over_200_exchanges(workplace: Path) -> None:
    config = load_config(
        str(workplace / "tiny.yaml"),
        [
            f"storage={workplace}/runs",
            "name=flat-store",
            f"intervals={INTERVALS}",
            "data.steps_per_interval=1",
            "memory.steps_per_interval=1",
            "memory.layer.slots_side=64",
            "memory.layer.dim=64",
            "evaluation.every=0",
            "checkpoints.every=0",
        ],
    )
    used: list[tuple[float, int]] = []  # time, bytes
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.05):
            used.append((time.time(), store_bytes()))

    sampler = threading.Thread(target=sample)
    began = time.time()
    sampler.start()
    try:
        result = train(config, started_at=began)
    finally:
        over.set()
        sampler.join()
    rows = pq.read_table(f"{result.path}/metrics.parquet").to_pylist()
    ends = sorted(began + row["end_s"] for row in rows if row["group"] == "memory")
    late = [num for at, num in used if ends[24] < at <= ends[INTERVALS - 1]]
    snapshot = result.summary["exchange"]["bytes"] / result.summary["exchange"]["published"]
    assert result.summary["exchange"]["published"] >= 2 * INTERVALS
    assert min(late) > snapshot  # they do go through the store
    # Ray lets objects go in batches, once a second, so that the use swings; a leak keeps them all.
    kept = config.retention.versions * 2 * snapshot
    leaked = 2 * INTERVALS * snapshot
    assert min(late[len(late) // 2 :]) < (kept + leaked) / 2
