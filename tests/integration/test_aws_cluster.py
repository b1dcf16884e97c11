"""The AWS files on an AWS that is moto's: what `ray up` does there before it has a machine to log
in to, by Ray's own provider.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

pytestmark = pytest.mark.ray  # Ray's launcher for AWS

ROOT = Path(__file__).resolve().parents[2]
FILES = ["cluster.yaml", pytest.param("docs/cluster/aws.yaml", marks=pytest.mark.long)]
ROLE = "ray-autoscaler-v1"  # Ray's; made here, since Ray waits half a minute after making it


def launch(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The file as the launcher completes it, and a launched instance of each node type."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.commands import _bootstrap_config

    iam = boto3.client("iam")
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName=ROLE)
    iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
    raw = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    ec2 = boto3.client("ec2", region_name=raw["provider"]["region"])
    image = ec2.describe_images()["Images"][0]["ImageId"]
    for node_type in raw["available_node_types"].values():
        node_type["node_config"]["ImageId"] = image
    config = _bootstrap_config(raw, no_config_cache=True)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind, node_type in config["available_node_types"].items():
        more = config["head_node"] if kind == "head" else {}
        tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: kind}
        provider.create_node({**node_type["node_config"], **more}, tags, 1)
    found = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            found[tags[TAG_RAY_USER_NODE_TYPE]] = instance
    return config, found


@pytest.mark.parametrize("name", FILES)
def test_every_node_type_is_launched_as_it_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the key to log in with is written
    written = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["available_node_types"]
    with mock_aws():
        config, launched = launch(name)
    assert set(launched) == {"head", "data", "memory"}
    for kind, instance in launched.items():
        node_config = written[kind]["node_config"]
        assert instance["InstanceType"] == node_config["InstanceType"]
        spot = node_config.get("InstanceMarketOptions") == {"MarketType": "spot"}
        assert instance.get("InstanceLifecycle") == ("spot" if spot else None)
        (disk,) = instance["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"]  # or idle nodes that go leave their disks behind
        assert config["available_node_types"][kind]["labels"] == {"tandem-group": kind}
    assert launched["head"]["IamInstanceProfile"]["Arn"].endswith(ROLE)  # it starts the others
    assert os.listdir(tmp_path / ".ssh")
