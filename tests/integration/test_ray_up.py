"""`ray up docs/cluster/local.yaml`, and what the head then does to its workers, on machines that
are folders: ssh and rsync lead there, and of what a machine runs only `sudo`, `pip` and `ray` are
stand-ins, which write down how they were called.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.local.node_provider import LocalNodeProvider
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
from ray.core.generated.instance_manager_pb2 import Instance

pytestmark = [pytest.mark.long, pytest.mark.ray]  # Ray's launcher, and what it runs on machines

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "cluster" / "local.yaml"
HEAD, DATA_IP, MEMORY_IP = "192.168.1.10", "192.168.1.11", "192.168.1.13"
TOKEN = "made-up-for-this-test"
SSH = """
for target; do shift; case $target in *@*) break;; esac; done
export HOME={machines}/${{target#*@}}
cd "$HOME" && exec bash -c "$*"
"""
RSYNC = """
source=${{*: -2:1}}; target=${{*: -1}}
home={machines}/$(echo "${{target#*@}}" | cut -d: -f1)
path=${{target#*:}}
path=$home/${{path#\\~/}}
case $source in
  */) mkdir -p "$path" && cp -a "$source". "$path";;
  *) cp -a "$source" "$path";;
esac
"""
WRITE_DOWN = """
printf '{{"tool": "{tool}", "args": "%s", "auth": "%s"}}\\n' "$*" "$RAY_AUTH_MODE" >> ~/calls
"""


@dataclass(frozen=True)
class Machines:
    """A laptop and the machines of `local.yaml`.

    Attributes:
        folder: with a home per address, and `laptop`.
        environment: of who sits at the laptop.
        cluster: its name, which no other has.
    """

    folder: Path
    environment: dict[str, str]
    cluster: str

    def calls(self, address: str, tool: str) -> list[dict[str, str]]:
        lines = (self.folder / address / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["tool"] == tool]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    laptop = tmp_path / "laptop"
    script(laptop / "bin" / "ssh", SSH.format(machines=tmp_path))
    script(laptop / "bin" / "rsync", RSYNC.format(machines=tmp_path))
    for name, text in ((".ray/auth_token", TOKEN), (".ssh/id_ed25519", "no key")):
        (laptop / name).parent.mkdir()
        (laptop / name).write_text(text)
    for address in (HEAD, DATA_IP, MEMORY_IP):
        home = tmp_path / address
        for tool in ("pip", "python", "ray"):
            script(home / "tandem-env" / "bin" / tool, WRITE_DOWN.format(tool=tool))
        script(home / "tools" / "sudo", WRITE_DOWN.format(tool="sudo"))
        script(home / "tools" / "nvidia-smi", f"test {address} != {HEAD}")
        script(home / "tools" / "hostname", f"echo '{address} '")
        (home / ".bash_profile").write_text('export PATH="$HOME/tools:$PATH"\n')
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(laptop),
        "PATH": f"{laptop / 'bin'}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(tmp_path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    name = f"tandem-{uuid.uuid4().hex}"
    yield Machines(tmp_path, environment, name)
    hashed = hashlib.sha256(name.encode()).hexdigest()[:10]
    for folder in Path("/tmp").glob(f"ray_ssh_*/{hashed}"):  # for its sockets to ssh; Ray leaves it
        folder.rmdir()
        with contextlib.suppress(OSError):  # another cluster's are in it
            folder.parent.rmdir()


def ray_up(machines: Machines) -> dict[str, Any]:
    """Brings the head up as the guide says; what the head knows of the cluster then."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "up", str(FILE), "--yes"]
    command += ["--no-config-cache", f"--cluster-name={machines.cluster}"]
    done = subprocess.run(
        command, cwd=ROOT, env=machines.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    known = machines.folder / HEAD / "ray_bootstrap_config.yaml"
    loaded: dict[str, Any] = yaml.safe_load(known.read_text())
    return loaded


def set_up_worker(machines: Machines, known: dict[str, Any], address: str) -> None:
    """What the head's autoscaler does to a machine, from the head's own folder."""
    head = machines.folder / HEAD
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(head))
        patch.setenv("PATH", machines.environment["PATH"])
        patch.setenv("RAY_TMPDIR", str(machines.folder / "of-head"))
        patch.chdir(head)
        provider = LocalNodeProvider(known["provider"], known["cluster_name"])
        kind = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}
        provider.create_node({}, kind, len(known["provider"]["worker_ips"]))
        config = AutoscalingConfig(known, skip_content_hash=True)
        instance = Instance(
            instance_id="i", cloud_instance_id=address, instance_type="local.cluster.node"
        )
        RayInstaller(provider, config, subprocess).install_ray(instance, HEAD)


def test_ray_up_makes_a_head_without_gpus_that_asks_for_the_token(machines: Machines) -> None:
    known = ray_up(machines)
    home = machines.folder / HEAD
    assert (home / ".ray" / "auth_token").read_text() == TOKEN
    assert TOKEN not in json.dumps(known)
    (start,) = [c for c in machines.calls(HEAD, "ray") if c["args"].startswith("start")]
    assert start["auth"] == "token"
    for word in ("--head", "--dashboard-host=127.0.0.1", "--num-gpus=0"):
        assert word in start["args"].split()
    assert "--labels=tandem-group=head" in start["args"]
    pips = [call["args"] for call in machines.calls(HEAD, "pip")]
    assert [("whl/cpu" in args, "requirements.lock" in args) for args in pips] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    for name in ("actors/settings/run.py", "jobs/cli.py", "pyproject.toml", "README.md"):
        assert (home / "tandem" / name).read_bytes() == (ROOT / name).read_bytes()
    assert not (home / "tandem" / ".git").exists()


@pytest.mark.parametrize(("address", "group"), [(DATA_IP, "data"), (MEMORY_IP, "memory")])
def test_the_head_hands_environment_token_and_label_on_to_its_workers(
    machines: Machines, address: str, group: str
) -> None:
    set_up_worker(machines, ray_up(machines), address)
    assert (machines.folder / address / ".ray" / "auth_token").read_text() == TOKEN
    (start,) = [c for c in machines.calls(address, "ray") if c["args"].startswith("start")]
    assert start == {
        "tool": "ray",
        "args": f"start --address={HEAD}:6379 --labels=tandem-group={group}",
        "auth": "token",
    }
    pips = [call["args"] for call in machines.calls(address, "pip")]
    assert not [args for args in pips if "whl/cpu" in args]  # it has a card
    assert pips[0].endswith("tandem/requirements.lock")
    assert (machines.folder / address / "tandem" / "jobs" / "cli.py").exists()
