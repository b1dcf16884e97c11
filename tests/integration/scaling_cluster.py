"""Ray's own fake autoscaling cluster, made fit to run beside other Rays.

Its `start` and `shutdown` end every Ray on the machine by `ray stop`, its port is fixed, and it
reads a file that Ray's wheel leaves out. Nothing of how it scales is changed: Ray's second
autoscaler decides, and Ray's fake provider starts and ends real raylets.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster

from orchestrator.nodes.autoscaler import scaler_state

HEAD = "ray.head.default"  # what the fake provider calls it
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
IDLE_S = 3
START_S = 120.0


class ScalingCluster(AutoscalingCluster):
    """A head without resources and worker types that come and go.

    Args:
        worker_types: as `available_node_types` of a cluster's file.
        max_workers: nodes beside the head, at most.
    """

    def __init__(self, worker_types: Mapping[str, Any], max_workers: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sc-"))
        super().__init__({"CPU": 0}, dict(worker_types), autoscaler_v2=True)
        self._config["max_workers"] = max_workers
        self.address = ""
        self._head: subprocess.Popen[bytes] | None = None

    def _generate_config(
        self, head_resources: Any, worker_node_types: Any, autoscaler_v2: bool = False, **more: Any
    ) -> dict[str, Any]:
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "fake",
            "provider": {
                "type": "external",
                "module": PROVIDER,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {**worker_node_types, HEAD: head},
            "head_node_type": HEAD,
            "idle_timeout_minutes": IDLE_S / 60,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            **{name: [] for name in COMMANDS},
            **more,
        }

    def start(self, _system_config: Any = None, override_env: Any = None) -> None:
        """Starts the head; returns once it answers."""
        self.address = f"{get_node_ip_address()}:{_free_port()}"
        self._config["provider"]["gcs_address"] = self.address
        config = self.folder / "cluster.json"
        config.write_text(json.dumps(self._config))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}"]
        command += [f"--autoscaling-config={config}", "--num-cpus=0", "--num-gpus=0"]
        command += ["--include-dashboard=false", "--include-log-monitor=false"]
        command += ["--disable-usage-stats", "--object-store-memory=100000000"]
        own = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            # `ray start` asks for a token where this machine has one; who connects must know.
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        with (self.folder / "output").open("wb") as output:
            self._head = subprocess.Popen(
                command, env={**os.environ, **own, **(override_env or {})},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            self._wait_until_it_reports(time.monotonic() + START_S)
        except BaseException:
            self.shutdown()
            raise

    def _wait_until_it_reports(self, deadline: float) -> None:
        """Raises where there is no head, or no autoscaler, by then."""
        while not self._answers():
            if self._head is None or self._head.poll() is not None or time.monotonic() > deadline:
                output = (self.folder / "output").read_text(errors="replace")
                raise RuntimeError(f"there is no head; it said: {output[-2000:]}")
            time.sleep(0.1)
        ray.init(address=self.address, log_to_driver=False, logging_level="CRITICAL")
        try:
            while scaler_state() is None:
                if time.monotonic() > deadline:
                    raise RuntimeError("the autoscaler does not report")
                time.sleep(0.1)
        finally:
            ray.shutdown()

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def shutdown(self) -> None:
        """Ends the head, and what it and its provider started; nothing else."""
        assert self._head is not None
        try:
            ours = psutil.Process(self._head.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            ours = []
        self._head.terminate()
        self._head.wait()
        for process in ours:
            try:
                process.kill()  # agents of the fake nodes outlive the head for some seconds
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(ours, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def labels_of_living_nodes() -> list[str]:
    """The group label of every node that is there but the head."""
    found = [node["Labels"].get("tandem-group") for node in ray.nodes() if node["Alive"]]
    return sorted(label for label in found if label)
