"""The settings of the two layers: what goes together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actors.settings.layers import DataLayerSpec, MemoryLayerSpec


def test_a_checkpoint_takes_no_fields_that_change_what_its_weights_mean() -> None:
    with pytest.raises(ValidationError, match=r"fields\.hidden_size can't be set together"):
        DataLayerSpec(pretrained="owner/model", fields={"hidden_size": 64})


@pytest.mark.parametrize("name", ["attention_dropout", "resid_pdrop"])
def test_a_checkpoint_takes_dropout(name: str) -> None:
    assert DataLayerSpec(pretrained="owner/model", fields={name: 0.1}).fields == {name: 0.1}


def test_a_resolved_spec_of_a_checkpoint_is_a_spec_again() -> None:
    spec = DataLayerSpec(pretrained="owner/model")
    assert DataLayerSpec(**spec.model_dump()) == spec


@pytest.mark.parametrize(
    "fields",
    [{"pretrained": ""}, {"attention": "flash"}, {"read_layers": (1, 1)}],
)
def test_a_data_layer_that_can_not_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataLayerSpec(**fields)


@pytest.mark.parametrize("fields", [{"encoder": "gru"}, {"copy_layers": 0}, {"start_from": ""}])
def test_a_memory_layer_that_can_not_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MemoryLayerSpec(**fields)


@pytest.mark.parametrize(
    ("encoder", "tie", "ties"),
    [("conv", True, True), ("conv", False, False), ("frozen_copy", True, False)],
)
def test_only_trained_embeddings_are_an_output_matrix(encoder: Any, tie: bool, ties: bool) -> None:
    assert MemoryLayerSpec(encoder=encoder, tie_embeddings=tie).ties_output == ties


@pytest.mark.parametrize(
    ("encoder", "change", "same"),
    [
        ("conv", {"compile": True}, True),
        ("conv", {"start_from": "runs/a"}, True),
        ("conv", {"copy_layers": 5}, True),
        ("conv", {"conv_taps": 5}, False),
        ("conv", {"dim": 64}, False),
        ("conv", {"topk": 8}, False),
        ("frozen_copy", {"conv_taps": 5}, True),
        ("frozen_copy", {"copy_layers": 5}, False),
    ],
)
def test_two_memories_are_one_where_what_they_compute_with_is_equal(
    encoder: Any, change: dict[str, Any], same: bool
) -> None:
    one, other = MemoryLayerSpec(encoder=encoder), MemoryLayerSpec(encoder=encoder, **change)
    assert (one.identity() == other.identity()) == same
