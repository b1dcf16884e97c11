"""Settings of the held-out evaluations. No torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.corpus import FACTS_ONLY
from actors.settings.fields import PathTo
from actors.settings.node_labels import NodeLabels


class EvaluationSpec(Spec):
    """Held-out figures: how often, and on how much."""

    every: int = Field(
        10,
        ge=0,
        description="Intervals between evaluations of a committed pair. The first one is of "
        "version 0, before any training. 0: evaluate only at the end.",
    )
    windows: int = Field(
        32, ge=1, description="Held-out windows per evaluation during the run; more: less noise."
    )
    probes: Annotated[int, FACTS_ONLY] = Field(
        200, ge=0, description="Questions in held-out wordings per evaluation during the run."
    )
    final_windows: int = Field(256, ge=1, description="Held-out windows of the last evaluation.")
    final_probes: Annotated[int, FACTS_ONLY] = Field(
        1000,
        ge=0,
        description="Questions of the last evaluation: so many in held-out wordings, and so many "
        "in trained ones.",
    )
    batch_tokens: int = Field(
        4096,
        ge=1,
        description="Tokens per forward pass of an evaluation, padding included; a longer "
        "sequence has a pass of its own. Figures do not depend on it, except for rounding: lower "
        "it where the evaluator runs out of memory, raise it on a large GPU.",
    )
    general_text: Annotated[str | None, PathTo.GENERAL] = Field(
        None,
        min_length=1,
        description="A file of ordinary text (text, JSONL or Parquet, with a column `text`) that "
        "the run is not about: every evaluation shows the model's loss on a third of it, which "
        "nothing trains on. Unset: a sample of English prose that ships with Tandem, where "
        "`data.layer.pretrained` is set. With `data.general_frac` the rest of it is trained on, "
        "and a resume may not change it.",
    )
    general_windows: int = Field(
        32,
        ge=0,
        description="Windows of general text, the same ones in every evaluation; 0: no figures of "
        "general text.",
    )
    written: int = Field(
        32,
        ge=0,
        description="Documents that the memory writes per evaluation, to measure how good a writer "
        "it is (heldout.written_likely_frac); 0: none.",
    )
    questions: int = Field(
        5, ge=0, description="Sample questions answered in the summary and the report."
    )
    cpus: float = Field(
        0.0,
        ge=0,
        description="CPUs reserved for the evaluator; 0: it shares those of the groups.",
    )
    gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs reserved for the evaluator, a fraction to share one; 0: it evaluates on "
        "CPUs.",
    )
    node_labels: NodeLabels = Field(
        default_factory=dict,
        description="The evaluator runs only on a node with these Ray labels; needs `cpus` or "
        "`gpus`.",
    )

    @model_validator(mode="after")
    def _labels_need_a_reservation(self) -> Self:
        if self.node_labels and not self.cpus and not self.gpus:
            raise ValueError(
                "node_labels needs cpus or gpus above 0: without a reservation the evaluator may "
                "be placed on any node"
            )
        return self
