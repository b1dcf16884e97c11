"""Settings of the held-out evaluations. No torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.node_labels import NodeLabels


class EvaluationSpec(Spec):
    """Held-out figures: how often, and on how much."""

    every: int = Field(
        10,
        ge=0,
        description="Intervals between evaluations of a committed pair, version 0 among them: what "
        "the layers knew before; 0: only at the end.",
    )
    windows: int = Field(32, ge=1, description="Held-out windows of an evaluation during the run.")
    probes: int = Field(
        200, ge=0, description="facts only: unseen-wording probes of an evaluation during the run."
    )
    final_windows: int = Field(256, ge=1, description="Held-out windows of the last evaluation.")
    final_probes: int = Field(
        1000, ge=0, description="facts only: probes of the last one, unseen and seen each."
    )
    batch_tokens: int = Field(
        4096,
        ge=1,
        description="Tokens of a forward pass of an evaluation, padding included; a longer "
        "sequence has a pass of its own. Changes no figure, but for rounding: lower it where the "
        "evaluator runs out of memory, raise it on a large GPU.",
    )
    questions: int = Field(
        5, ge=0, description="Sample questions answered in the summary and the report."
    )
    cpus: float = Field(
        0.0, ge=0, description="CPUs reserved for the evaluator; 0 lets it share with the groups."
    )
    gpus: float = Field(0.0, ge=0, description="GPUs reserved for the evaluator.")
    node_labels: NodeLabels = Field(
        default_factory=dict,
        description="Only a node with these Ray labels takes the evaluator; needs cpus or gpus.",
    )

    @model_validator(mode="after")
    def _labels_need_a_reservation(self) -> Self:
        if self.node_labels and not self.cpus and not self.gpus:
            raise ValueError(
                "node_labels needs cpus or gpus: an evaluator that reserves nothing sits anywhere"
            )
        return self
