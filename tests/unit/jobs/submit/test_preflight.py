from __future__ import annotations

from typing import Any

import pytest

from jobs.submit.preflight import JobNeeds, Reservation, other_packages, problems, shortages

WANTED = JobNeeds(
    (Reservation("driver", {"CPU": 1.0}),), "s3://b/runs", "s3://b/runs/r", {"torch": "2.13.0"}
)


def node(address: str = "10.0.0.1", **changes: Any) -> dict[str, Any]:
    plain = {"address": address, "resources": {"CPU": 4.0, "GPU": 0.0}, "labels": {}, "error": ""}
    packages = {"torch": "2.13.0+cu128"}
    return {**plain, "packages": packages, "storage_error": "", "missing": (), **changes}


def survey(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plain = {"storage_error": "", "run_exists": False, "autoscales": False, "possible": []}
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
        (survey(node(resources={"CPU": 0.5})), "no room for 1 x driver (1 CPU)"),
    ],
)
def test_each_shortcoming_is_one_message(found: dict[str, Any], message: str) -> None:
    [line] = problems(found, WANTED, installs=False)
    assert message in line


def test_other_packages_are_no_problem_for_a_job_that_installs_them() -> None:
    found = survey(node(packages={"torch": "2.9.0"}))
    assert problems(found, WANTED, installs=True) == []
    assert list(other_packages(found, WANTED.versions)) == ["torch"]


def test_a_worker_must_fit_one_node_whatever_the_sum() -> None:
    nodes = [node(resources={"CPU": 4.0, "GPU": 0.0})] * 4
    [line] = shortages([Reservation("data worker", {"CPU": 8.0})], survey(*nodes))
    assert "no room for 1 x data worker (8 CPU)" in line
    assert "the cluster has 4 x (4 CPU) and does not scale" in line


def test_a_worker_must_have_a_node_with_its_labels() -> None:
    labelled = [node(labels={"group": name}) for name in ("data", "data")]
    places = [Reservation("memory worker", {"CPU": 1.0}, {"group": "memory"})]
    [line] = shortages(places, survey(*labelled))
    assert "no room for 1 x memory worker (1 CPU with group=memory)" in line
    assert "2 x (4 CPU with group=data)" in line
    assert shortages(places, survey(*labelled, node(labels={"group": "memory"}))) == []


def test_what_the_autoscaler_may_add_counts() -> None:
    workers = [Reservation("data worker", {"CPU": 1.0, "GPU": 1.0})] * 2
    possible = [{"resources": {"CPU": 4, "GPU": 1}, "labels": {}}] * 2
    scaling = survey(autoscales=True, possible=possible)
    assert shortages(workers, scaling) == []
    [line] = shortages([*workers, workers[0]], scaling)
    assert "no room for 1 x data worker" in line
    assert "could scale to 2 x (4 CPU, 1 GPU)" in line


def test_an_autoscaler_whose_types_are_not_known_is_left_to_say_so_itself() -> None:
    places = [Reservation("data worker", {"GPU": 9.0})]
    assert shortages(places, survey(autoscales=True)) == []
