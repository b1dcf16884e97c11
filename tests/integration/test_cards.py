"""On several GPUs every worker sees its own, and the groups' cards are disjoint: with Ray's logical
GPUs, in a process of its own, since the session's Ray has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.ray]  # a Ray of its own that is told of cards

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import ray
from ray.util.placement_group import remove_placement_group
from orchestrator.processes.ray_cluster import RayCluster
from orchestrator.settings.config import load_config
from orchestrator.nodes.placement import Seats, reserve

ray.init(address="local", num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False)
config = load_config(sys.argv[1], [
    "data.workers={num_workers: 2, cpus: 1, gpus: 1}",
    "memory.workers={num_workers: 2, cpus: 1, gpus: 1}",
    "name=cards",
])
placement = reserve(config, lambda: None)
cluster = RayCluster(config, "", Seats(placement))
try:
    located = cluster.locate(lambda: None)
finally:
    cluster.stop()
    remove_placement_group(placement)
    ray.shutdown()
print(json.dumps({
    group: [[list(where.gpu_ids), where.visible_devices] for where in ranks]
    for group, ranks in located.items()
}))
"""


def test_every_worker_sees_its_own_card_and_the_groups_share_none(workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(workplace / "tiny.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    located = json.loads(done.stdout.splitlines()[-1])
    seen = [visible for group in ("data", "memory") for _, visible in located[group]]
    assigned = [",".join(ids) for group in ("data", "memory") for ids, _ in located[group]]
    assert seen == assigned
    assert sorted(seen) == ["0", "1", "2", "3"]
