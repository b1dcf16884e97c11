"""What the specs of `reflect` and `learning` share: a small Llama, and changes by dotted name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.spec import RunSpec


def changed_spec(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """The spec with values changed by dotted name."""
    fields = spec.model_dump()
    for name, value in changes.items():
        *path, last = name.split(".")
        at = fields
        for part in path:
            at = at[part]
        if last not in at:
            raise ValueError(f"no setting {name}; here are {', '.join(at)}")
        at[last] = value
    return RunSpec.model_validate(fields)


def small_llama(window: int, width: int = 64) -> dict[str, Any]:
    """Fields of a Llama of two layers."""
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
        "max_position_embeddings": window,
    }
