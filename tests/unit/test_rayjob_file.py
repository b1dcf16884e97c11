"""docs/cluster/rayjob.yaml against the fields that KubeRay's RayJob has (ray.io/v1, release 1.7.0).

What is not covered: of a pod only the fields that such files use are known here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from actors.settings.node_labels import meets
from orchestrator.nodes.placement import bundle_labels, bundles
from orchestrator.settings.config import Config, load_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "cluster"
TEXTS = {"*": str}  # a map of strings
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
RESOURCES = {"requests": {"*": QUANTITY}, "limits": {"*": QUANTITY}}
ENVIRONMENT = [{"name": str, "value": str, "valueFrom": dict}]
SOURCES = [{"prefix": str, "secretRef": {"name": str, "optional": bool}, "configMapRef": dict}]
MOUNTS = [{"name": str, "mountPath": str, "subPath": str, "readOnly": bool}]
POD = {
    "metadata": {"labels": TEXTS, "annotations": TEXTS},
    "spec": {
        "nodeSelector": TEXTS,
        "serviceAccountName": str,
        "tolerations": [dict],
        "containers": [
            {
                "name": str,
                "image": str,
                "imagePullPolicy": str,
                "command": [str],
                "args": [str],
                "env": ENVIRONMENT,
                "envFrom": SOURCES,
                "resources": RESOURCES,
                "ports": [{"containerPort": int, "name": str}],
                "volumeMounts": MOUNTS,
            }
        ],
        "volumes": [
            {
                "name": str,
                "configMap": {"name": str, "items": [dict]},
                "emptyDir": {"medium": str, "sizeLimit": QUANTITY},
                "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            }
        ],
    },
}
GROUP = {"rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS, "template": POD}
FIELDS: dict[str, Any] = {
    "apiVersion": {"ray.io/v1"},
    "kind": {"RayJob"},
    "metadata": {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS},
    "spec": {
        "entrypoint": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "metadata": TEXTS,
        "clusterSelector": TEXTS,
        "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "submitterPodTemplate": POD,
        "submitterConfig": {"backoffLimit": int},
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "preRunningDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "suspend": bool,
        "managedBy": str,
        "deletionStrategy": dict,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {
                "mode": {"disabled", "token"},
                "secretName": str,
                "enableK8sTokenAuth": bool,
            },
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {
                "version": {"v1", "v2"},
                "upscalingMode": {"Default", "Aggressive", "Conservative"},
                "idleTimeoutSeconds": int,
                "image": str,
                "imagePullPolicy": str,
                "env": ENVIRONMENT,
                "envFrom": SOURCES,
                "resources": RESOURCES,
                "securityContext": dict,
                "volumeMounts": MOUNTS,
                "command": [str],
                "args": [str],
            },
            "headServiceAnnotations": TEXTS,
            "headGroupSpec": {
                **GROUP,
                "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
                "headService": dict,
                "enableIngress": bool,
                "ingressOptions": dict,
            },
            "workerGroupSpecs": [
                {
                    **GROUP,
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "idleTimeoutSeconds": int,
                    "numOfHosts": int,
                    "priority": int,
                    "suspend": bool,
                    "scaleStrategy": {"workersToDelete": [str]},
                }
            ],
            "gcsFaultToleranceOptions": dict,
            "networkPolicy": dict,
            "tlsOptions": {"enabled": bool},
            "upgradeStrategy": {"type": {"Recreate", "None"}},
            "managedBy": str,
            "suspend": bool,
        },
    },
}
REQUIRED = {
    "spec.rayClusterSpec": ("headGroupSpec",),
    "spec.rayClusterSpec.headGroupSpec": ("template",),
    "spec.rayClusterSpec.workerGroupSpecs[]": (
        "groupName",
        "minReplicas",
        "maxReplicas",
        "template",
    ),
}


def mistakes(value: Any, known: Any, at: str = "") -> Iterator[str]:
    """What the API server would refuse: unknown fields, wrong types, fields that are missing."""
    if isinstance(known, dict):
        if not isinstance(value, dict):
            yield f"{at}: not an object"
            return
        for name in REQUIRED.get(at, ()):
            if name not in value:
                yield f"{at}: {name} is missing"
        for name, inside in value.items():
            if name not in known and "*" not in known:
                yield f"{at}: unknown field {name}"
            else:
                yield from mistakes(
                    inside, known.get(name, known.get("*")), f"{at}.{name}".lstrip(".")
                )
    elif isinstance(known, list):
        if not isinstance(value, list):
            yield f"{at}: not a list"
            return
        for inside in value:
            yield from mistakes(inside, known[0], f"{at}[]")
    elif isinstance(known, set):
        if value not in known:
            yield f"{at}: {value!r} is none of {sorted(known)}"
    elif isinstance(known, re.Pattern):
        if not (isinstance(value, str) and known.fullmatch(value)):
            yield f"{at}: {value!r} is no quantity"
    elif not isinstance(value, known) or (known is not bool and isinstance(value, bool)):
        yield f"{at}: {value!r} is no {known.__name__}"


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob."""
    text = (FOLDER / "rayjob.yaml").read_text(encoding="utf-8")
    config_map, job = yaml.safe_load_all(text)
    return config_map, job


def run_config() -> Config:
    return load_config(yaml.safe_load(documents()[0]["data"]["run.yaml"]))


def cluster() -> dict[str, Any]:
    spec: dict[str, Any] = documents()[1]["spec"]["rayClusterSpec"]
    return spec


def worker_groups() -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster()["workerGroupSpecs"]}


def test_every_field_is_one_that_a_rayjob_has() -> None:
    assert list(mistakes(documents()[1], FIELDS)) == []


WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("spec", "entrypiont"), "x", "spec: unknown field entrypiont"),
    (("spec", "backoffLimit"), "2", "spec.backoffLimit: '2' is no int"),
    (("spec", "shutdownAfterJobFinishes"), 1, "is no bool"),
    (("spec", "rayClusterSpec", "authOptions", "mode"), "on", "none of"),
    (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "labels", "a"), 1, "1 is no str"),
    (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), None, "is no int"),
    (("spec", "rayClusterSpec", "headGroupSpec"), {}, "template is missing"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_field_that_a_rayjob_has_not_is_noticed(
    path: tuple[Any, ...], value: Any, message: str
) -> None:
    job = copy.deepcopy(documents()[1])
    inside = job
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = value
    assert message in "; ".join(mistakes(job, FIELDS))


def test_all_versions_of_ray_are_the_locks() -> None:
    version = ray.__version__
    assert cluster()["rayVersion"] == version
    assert f"\nray=={version}\n" in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    image = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{version}-py3" in image


def test_the_token_is_on_and_the_dashboard_stays_inside() -> None:
    assert cluster()["authOptions"] == {"mode": "token"}
    assert cluster()["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not cluster()["headGroupSpec"].get("enableIngress")


def test_labels_need_the_second_autoscaler_and_the_labels_field() -> None:
    assert cluster()["autoscalerOptions"]["version"] == "v2"
    for group in (cluster()["headGroupSpec"], *worker_groups().values()):
        assert "labels" not in group["rayStartParams"]  # the operator refuses that
        assert group["labels"]


def test_each_group_has_workers_from_zero_with_its_own_label_and_gpus() -> None:
    assert set(worker_groups()) == {"data", "memory"}
    for name, group in worker_groups().items():
        assert group["labels"] == {"tandem-group": name}
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        (container,) = group["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1
        assert container["resources"]["requests"] == container["resources"]["limits"]
    (head,) = cluster()["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def test_the_runs_groups_find_their_pods() -> None:
    config = run_config()
    pods = [(cluster()["headGroupSpec"], 1)]
    pods += [(group, group["maxReplicas"]) for group in worker_groups().values()]
    rooms = []
    for group, count in pods:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        has = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        rooms += [(group["labels"], dict(has)) for _ in range(count)]
    for bundle, labels in zip(bundles(config), bundle_labels(config), strict=True):
        mine = [room for has, room in rooms if meets(has, labels)]
        free = [room for room in mine if all(room[kind] >= n for kind, n in bundle.items())]
        assert free, f"{bundle} on {labels}"
        for kind, amount in bundle.items():
            free[0][kind] -= amount


def test_the_entrypoint_reads_the_config_that_is_mounted() -> None:
    config_map, job = documents()
    pod = cluster()["headGroupSpec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    (file,) = config_map["data"]
    assert job["spec"]["entrypoint"].startswith(f"tandem train {mount['mountPath']}/{file} ")
