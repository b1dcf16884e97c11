from __future__ import annotations

import pytest
from pydantic import ValidationError
from ray._private.label_utils import validate_label_selector

from actors.settings.evaluation import EvaluationSpec
from actors.settings.groups import WorkersSpec
from actors.settings.node_labels import in_words, meets

NODE = {"tandem-group": "data", "ray.io/accelerator-type": "A100"}
WELL_FORMED = [
    {"tandem-group": "data"},
    {"ray.io/accelerator-type": "in(A100, H100)"},
    {"tandem-group": "!memory"},
    {"a.b/c_d": "!in(x,y)"},
    {"k" * 63: "v" * 63},
]
MALFORMED = [
    {"tandem group": "data"},
    {"-tandem": "data"},
    {"tandem/": "data"},
    {"k" * 64: "data"},
    {"tandem-group": ""},
    {"tandem-group": "in()"},
    {"tandem-group": "da ta"},
    {"tandem-group": "!!data"},
]


@pytest.mark.parametrize("wanted", WELL_FORMED)
def test_what_ray_takes_for_a_selector_is_taken(wanted: dict[str, str]) -> None:
    assert validate_label_selector(wanted) is None
    assert WorkersSpec(node_labels=wanted).node_labels == wanted


@pytest.mark.parametrize("wanted", MALFORMED)
def test_a_malformed_selector_is_refused_at_birth(wanted: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="label"):
        WorkersSpec(node_labels=wanted)


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ({}, True),
        ({"tandem-group": "data"}, True),
        ({"tandem-group": "memory"}, False),
        ({"tandem-group": "!memory"}, True),
        ({"tandem-group": "!data"}, False),
        ({"tandem-group": "in(memory, data)"}, True),
        ({"tandem-group": "!in(memory,data)"}, False),
        ({"zone": "a"}, False),
        ({"zone": "!a"}, True),
        ({"tandem-group": "data", "zone": "a"}, False),
    ],
)
def test_a_node_is_one_of_those_asked_for_or_it_is_not(wanted: dict[str, str], met: bool) -> None:
    assert meets(NODE, wanted) is met


def test_labels_are_said_as_people_write_them() -> None:
    assert in_words({"b": "2", "a": "1"}) == "a=1, b=2"


def test_labels_of_an_evaluator_that_reserves_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs cpus or gpus"):
        EvaluationSpec(node_labels={"tandem-group": "data"})
