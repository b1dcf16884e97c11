from __future__ import annotations

from typing import Any

import pytest

from jobs.preflight import Wanted, other_packages, problems, shortages

WANTED = Wanted((("driver", {"CPU": 1.0}),), "s3://b/runs", "s3://b/runs/r", {"torch": "2.13.0"})


def node(address: str = "10.0.0.1", **changes: Any) -> dict[str, Any]:
    plain = {"address": address, "resources": {"CPU": 4.0, "GPU": 0.0}, "labels": {}, "error": ""}
    packages = {"torch": "2.13.0+cu128"}
    return {**plain, "packages": packages, "storage_error": "", "missing": (), **changes}


def survey(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plain = {"storage_error": "", "run_exists": False, "node_types": []}
    return {**plain, "nodes": [*nodes] or [node()], **changes}


def test_a_cluster_that_has_everything_has_no_problem() -> None:
    assert problems(survey(), WANTED, installs=False) == []


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (survey(storage_error="PermissionError: no"), "can't be written from the cluster's head"),
        (survey(node(storage_error="OSError: x")), "node 10.0.0.1: OSError: x; expected one place"),
        (survey(node(missing=("/c.txt",))), "/c.txt: neither on this machine nor on node 10.0.0.1"),
        (survey(node(error="no answer within 60 s")), "node 10.0.0.1: no answer within 60 s"),
        (survey(run_exists=True), "run directory s3://b/runs/r exists already"),
        (
            survey(node(packages={"torch": None})),
            "torch: expected 2.13.0, got none on node 10.0.0.1",
        ),
        (survey(node(packages={"torch": "2.9.0"})), "torch: expected 2.13.0, got 2.9.0"),
        (survey(node(resources={"CPU": 0.5})), "no place for 1 x driver (1 CPU)"),
    ],
)
def test_each_shortcoming_is_one_message(found: dict[str, Any], message: str) -> None:
    [line] = problems(found, WANTED, installs=False)
    assert message in line


def test_other_packages_are_no_problem_for_a_job_that_installs_them() -> None:
    found = survey(node(packages={"torch": "2.9.0"}))
    assert problems(found, WANTED, installs=True) == []
    assert list(other_packages(found, WANTED.versions)) == ["torch"]


def test_a_bundle_must_fit_one_node_whatever_the_sum() -> None:
    nodes = [node(resources={"CPU": 4.0, "GPU": 0.0})] * 4
    [line] = shortages((("data worker", {"CPU": 8.0}),), nodes, [])
    assert "no place for 1 x data worker (8 CPU)" in line
    assert "4 node(s): 4 CPU; 4 CPU; 4 CPU; 4 CPU; and scales to no more" in line


def test_what_the_autoscaler_may_add_counts() -> None:
    worker = ("data worker", {"CPU": 1.0, "GPU": 1.0})
    kinds = [{"name": "data", "resources": {"CPU": 4, "GPU": 1}, "max": 2}]
    assert shortages((worker, worker), [node()], kinds) == []
    [line] = shortages((worker, worker, worker), [node()], kinds)
    assert "no place for 1 x data worker" in line
    assert "scales to 2 x data (4 CPU, 1 GPU)" in line


def test_a_type_without_a_limit_has_room_for_all() -> None:
    kinds = [{"name": "any", "resources": {"CPU": 1}, "max": -1}]
    assert shortages((("data worker", {"CPU": 1.0}),) * 50, [], kinds) == []
