"""cluster.yaml and its variants: what Ray's launcher takes, what Tandem's groups ask for, and the
guide's commands.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.settings.node_labels import meets
from orchestrator.nodes.placement import bundle_labels, bundles
from orchestrator.settings.config import Config, load_config

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "cluster" / "README.md"
TYPED = ["cluster.yaml", "docs/cluster/aws.yaml", "docs/cluster/gcp.yaml"]
LAUNCHED = [*TYPED, "docs/cluster/local.yaml"]
AWS = TYPED[:2]


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return loaded


def guides_config() -> Config:
    """The config fragment of the guide, on a corpus."""
    block = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert block, "the guide has lost its config"
    fragment = yaml.safe_load(block[1])
    return load_config({"corpus": {"kind": "text", "paths": ["text.txt"]}, **fragment})


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_prepares_and_validates_it(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_would_refuse_a_mistyped_key(name: str) -> None:
    wrong = read(name) | {"idle_timeout": 3}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("name", TYPED)
def test_the_head_has_no_gpu_and_each_group_a_type_from_zero_with_its_own_label(name: str) -> None:
    config = read(name)
    types = config["available_node_types"]
    assert set(types) == {"head", "data", "memory"}
    assert config["head_node_type"] == "head"
    assert "GPU" not in types["head"]["resources"]
    for kind, node_type in types.items():
        assert node_type["labels"] == {"tandem-group": kind}
        assert node_type["min_workers"] == 0
    assert types["head"]["max_workers"] == 0
    for group in ("data", "memory"):
        assert types[group]["resources"]["GPU"] >= 1
        assert types[group]["max_workers"] >= 1
    machines = [t["node_config"] for t in (types["data"], types["memory"])]
    assert machines[0] != machines[1]
    assert types["data"]["max_workers"] + types["memory"]["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("name", TYPED)
def test_the_guides_config_finds_its_nodes_in_every_cluster(name: str) -> None:
    types = read(name)["available_node_types"]
    config = guides_config()
    left = {
        kind: [dict(t["resources"]) for _ in range(max(1, t["max_workers"]))]
        for kind, t in types.items()
    }
    for bundle, labels in zip(bundles(config), bundle_labels(config), strict=True):
        kinds = [kind for kind, t in types.items() if meets(t["labels"], labels)]
        nodes = [node for kind in kinds for node in left[kind]]
        room = [n for n in nodes if all(n.get(r, 0) >= amount for r, amount in bundle.items())]
        assert room, f"{bundle} on {labels} has no place on {kinds}"
        for resource, amount in bundle.items():
            room[0][resource] -= amount
    assert config.deadlines.start_s >= 1200  # a node with CUDA to install takes its time


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_has_the_token_and_asks_for_it_and_the_file_holds_none(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("export RAY_AUTH_MODE=token" in line for line in config["initialization_commands"])
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"RAY_AUTH_TOKEN\b|[0-9a-f]{32}", text)


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_listens_on_loopback_only(name: str) -> None:
    starts = [c for c in read(name)["head_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in (ROOT / name).read_text(encoding="utf-8")


def test_what_the_package_is_built_from_is_on_every_node_and_nothing_else_of_the_checkout() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {"pyproject.toml", "requirements.lock", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    needed |= {
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    mounts = dict(read("cluster.yaml")["file_mounts"])
    assert mounts.pop("~/.ray/auth_token")
    assert mounts == {f"~/tandem/{name}": name for name in needed}
    assert all((ROOT / name).exists() for name in needed)


@pytest.mark.parametrize("name", LAUNCHED[1:])
def test_all_variants_install_the_same_environment(name: str) -> None:
    first, other = read("cluster.yaml"), read(name)
    for key in ("setup_commands", "initialization_commands", "file_mounts", "rsync_exclude"):
        assert other[key] == first[key]
    assert any("-r ~/tandem/requirements.lock" in line for line in first["setup_commands"])


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_defaults_install_no_other_ray_or_library(name: str) -> None:
    prepared = prepare_config(read(name))
    commands = prepared["head_setup_commands"] + prepared["worker_setup_commands"]
    assert not [c for c in commands if "ray-wheels" in c or "boto3>=" in c or "==1.7.8" in c]


def calls_of(commands: list[str], home: Path, tools: dict[str, str]) -> list[str]:
    """Runs commands one by one as the launcher would, with stand-ins for the tools that reach
    outside; what each of those was called with.
    """
    folder, calls = home / "tools", home / "calls"
    folder.mkdir(exist_ok=True)
    for tool, script in tools.items():
        path = folder / tool
        path.write_text(f'#!/bin/bash\necho "{tool} $*" >> {calls}\n{script}\n')
        path.chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{folder}:{os.environ['PATH']}", "RAY_HEAD_IP": "h"}
    for command in commands:
        subprocess.run(["bash", "-c", command], env=environment, cwd=home, check=True)
    return calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(("cards", "cpu_builds"), [("exit 0", 0), ("exit 9", 1)])
def test_a_node_without_a_gpu_gets_the_cpu_build_of_the_locks_torch_first(
    tmp_path: Path, cards: str, cpu_builds: int
) -> None:
    (tmp_path / "tandem").mkdir()
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (tmp_path / "tandem" / "requirements.lock").write_text(lock)
    bin_ = tmp_path / "tandem-env" / "bin"
    bin_.mkdir(parents=True)
    for tool in ("pip", "python"):
        (bin_ / tool).write_text(f'#!/bin/bash\necho "{tool} $*" >> {tmp_path}/calls\n')
        (bin_ / tool).chmod(0o755)
    tools = {"sudo": "", "nvidia-smi": cards}
    calls = calls_of(read("cluster.yaml")["setup_commands"], tmp_path, tools)
    pips = [call for call in calls if call.startswith("pip")]
    (torch,) = re.findall(r"^torch==\S+", lock, re.MULTILINE)
    builds = [c for c in pips if f"{torch} --index-url https://download.pytorch.org/whl/cpu" in c]
    assert len(builds) == cpu_builds
    assert pips[cpu_builds].endswith("requirements.lock")
    assert pips[-1].endswith(f"--editable {tmp_path}/tandem")


def test_the_shells_of_a_node_are_set_up_once_however_often_the_cluster_is_updated(
    tmp_path: Path,
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("made up")
    (tmp_path / ".bashrc").write_text("")
    commands = read("cluster.yaml")["initialization_commands"]
    for _ in range(2):
        calls_of(commands, tmp_path, {})
    assert (tmp_path / ".bashrc").read_text().splitlines() == [
        "export RAY_AUTH_MODE=token",
        'export PATH="$HOME/tandem-env/bin:$PATH"',
    ]
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("address", "group"), [("192.168.1.11", "data"), ("192.168.1.13", "memory")]
)
def test_a_machine_of_your_own_learns_its_group_from_its_address(
    tmp_path: Path, address: str, group: str
) -> None:
    commands = read("docs/cluster/local.yaml")["worker_start_ray_commands"]
    tools = {"hostname": f"echo '{address} 10.0.0.9 '", "ray": ""}
    started = calls_of(commands, tmp_path, tools)[-1]
    assert started == f"ray start --address=h:6379 --labels=tandem-group={group}"


@pytest.mark.parametrize("name", AWS)
def test_the_machines_of_aws_have_the_cpus_and_gpus_that_are_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    config = read(name)
    with mock_aws():
        client = boto3.client("ec2", region_name=config["provider"]["region"])
        for kind, node_type in config["available_node_types"].items():
            machine = node_type["node_config"]["InstanceType"]
            (found,) = client.describe_instance_types(InstanceTypes=[machine])["InstanceTypes"]
            cards = sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", []))
            has = {"CPU": found["VCpuInfo"]["DefaultVCpus"], **({"GPU": cards} if cards else {})}
            assert node_type["resources"] == has, f"{kind}: {machine}"


@pytest.mark.parametrize(
    ("section", "files"),
    [
        ("AWS", AWS),
        ("Google Cloud", ["docs/cluster/gcp.yaml"]),
        ("Kubernetes", ["docs/cluster/rayjob.yaml"]),
    ],
)
def test_the_guides_commands_leave_nothing_to_change_in_the_files(
    tmp_path: Path, section: str, files: list[str]
) -> None:
    (tmp_path / "docs" / "cluster").mkdir(parents=True)
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "CHANGE-ME" in text
        (tmp_path / name).write_text(text)
    text = GUIDE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    lines = re.findall(r"^    (\S.*)$", text.partition("\n## ")[0], re.MULTILINE)
    tools = {"aws": "echo ami-0123", "gcloud": "echo mine"}
    tools |= dict.fromkeys(("ray", "pip", "helm", "docker", "kubectl"), "")
    calls = calls_of(["set -e\n" + "\n".join(lines)], tmp_path, tools)
    assert not [name for name in files if "CHANGE-ME" in (tmp_path / name).read_text()]
    started = [c for c in calls if c.startswith(("ray up", "kubectl apply"))]
    assert [call.split()[-1 if "apply" in call else 2] for call in started] == files[:1]
