"""The settings of a run that its trainers need: frozen, validated at birth, free of torch and Ray.

Every field says what it means, its unit and when to change it. `orchestrator.config` adds what only
the driver needs and turns validation errors into messages for people.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from actors.corpus_spec import CorpusSpec, TokenizerSpec
from actors.layer_spec import DataLayerSpec, MemoryLayerSpec
from actors.settings import Spec

DATA = "data"
MEMORY = "memory"
GROUPS = (DATA, MEMORY)


def peer_of(group: str) -> str:
    """The other group's name."""
    return MEMORY if group == DATA else DATA


DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Spec):
    """AdamW of the dense parameters of one layer, with warm-up and cosine decay."""

    lr: float = Field(2e-3, gt=0, description="Peak learning rate of the dense parameters.")
    final_lr_frac: float = Field(
        0.1, ge=0, le=1, description="Share of the peak rate left at the last step."
    )
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up.")
    betas: tuple[DecayRate, DecayRate] = Field(
        (0.9, 0.98), description="AdamW's moment decay rates."
    )
    weight_decay: float = Field(
        0.01, ge=0, description="Decay of matrices; vectors and the value table have none."
    )
    clip_norm: float = Field(
        1.0, gt=0, description="Largest gradient norm of the dense parameters per step."
    )


class WorkersSpec(Spec):
    """The processes of one group."""

    num_workers: int = Field(
        1, ge=1, le=1, description="Trainer processes of this group (one, for now)."
    )
    cpus: float = Field(
        1.0,
        gt=0,
        description="CPUs of each worker; its torch threads are this, rounded down, >= 1.",
    )
    gpus: float = Field(0.0, ge=0, description="GPUs of each worker; a fraction shares a card.")


class DataGroupSpec(Spec):
    """The data layer and the group that trains it."""

    layer: DataLayerSpec = Field(default_factory=DataLayerSpec)
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    workers: WorkersSpec = Field(default_factory=WorkersSpec)
    batch_size: int = Field(16, ge=2, description="Sequences per optimizer step, over all workers.")
    steps_per_interval: int = Field(
        20, ge=1, description="Optimizer steps between exchanges; aim at seconds."
    )
    help_frac: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Memory dropout: share of a batch's sequences that read the memory.",
    )


class MemoryGroupSpec(Spec):
    """The memory layer and the group that trains it."""

    layer: MemoryLayerSpec = Field(default_factory=MemoryLayerSpec)
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    value_lr: float = Field(
        1e-2, gt=0, description="Learning rate of the value table; 5 to 10 times the dense one."
    )
    value_clip: float = Field(
        1.0, gt=0, description="Largest gradient norm of the value table per step."
    )
    workers: WorkersSpec = Field(default_factory=WorkersSpec)
    batch_size: int = Field(16, ge=1, description="Sequences per optimizer step, over all workers.")
    steps_per_interval: int = Field(20, ge=1, description="Optimizer steps between exchanges.")
    recall_frac: float = Field(
        0.5, gt=0, le=1, description="Share of a batch that asks the teacher for recall."
    )
    sync_frac: float = Field(
        0.25, gt=0, le=1, description="Share of a batch on which sync runs (three more forwards)."
    )
    replay_windows: int = Field(2048, ge=0, description="Windows kept for replay.")


class LossWeights(Spec):
    """Weights of the losses (DESIGN 1). Each is measured and reported whatever its weight."""

    own: float = Field(1.0, ge=0, description="Data layer alone.")
    help: float = Field(1.0, ge=0, description="Data layer with memory.")
    recall: float = Field(1.0, ge=0, description="Memory says what the data layer would say.")
    self_: float = Field(1.0, ge=0, alias="self", description="Memory alone on the text.")
    sync: float = Field(
        0.5, ge=0, description="What just changed in the data layer, and only that, changes here."
    )
    balance: float = Field(0.01, ge=0, description="Even use of the slots.")
    assist: float = Field(0.0, ge=0, description="Help, with the gradient going into the memory.")

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )

    @model_validator(mode="after")
    def _each_group_learns(self) -> Self:
        if self.own + self.help == 0:
            raise ValueError(
                "losses.own and losses.help are both 0: the data group would train on nothing"
            )
        if self.recall + self.self_ + self.sync + self.assist == 0:
            raise ValueError(
                "losses.recall, self, sync and assist are all 0: the memory group would train on "
                "nothing"
            )
        return self


class MixSpec(Spec):
    """What the memory's batches are made of; the shares are normalised."""

    just_trained: float = Field(
        0.5, ge=0, description="What the data layer trained on since its last snapshot."
    )
    fresh: float = Field(0.3, ge=0, description="The memory's own shuffle of the training split.")
    replay: float = Field(0.2, ge=0, description="Windows of earlier intervals.")
    sampled: float = Field(0.0, ge=0, description="Text sampled from the data layer itself.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.just_trained + self.fresh + self.replay + self.sampled == 0:
            raise ValueError("all shares are 0: the memory would have no batches")
        return self

    def counts(self, batch_size: int) -> dict[str, int]:
        """Sequences of each kind in a batch of `batch_size`, by largest remainder."""
        shares = {
            "just_trained": self.just_trained,
            "fresh": self.fresh,
            "replay": self.replay,
            "sampled": self.sampled,
        }
        total = sum(shares.values())
        exact = {kind: share / total * batch_size for kind, share in shares.items()}
        counts = {kind: int(value) for kind, value in exact.items()}
        for kind in sorted(exact, key=lambda kind: counts[kind] - exact[kind])[
            : batch_size - sum(counts.values())
        ]:
            counts[kind] += 1
        return counts


class EvaluationSpec(Spec):
    """Held-out figures: how often, and on how much."""

    every: int = Field(
        10,
        ge=0,
        description="Intervals between evaluations of a committed pair; 0: only at the end.",
    )
    windows: int = Field(32, ge=1, description="Held-out windows of an evaluation during the run.")
    probes: int = Field(
        200, ge=0, description="facts only: unseen-wording probes of an evaluation during the run."
    )
    final_windows: int = Field(256, ge=1, description="Held-out windows of the last evaluation.")
    final_probes: int = Field(
        1000, ge=0, description="facts only: probes of the last one, unseen and seen each."
    )
    questions: int = Field(
        5, ge=0, description="Sample questions answered in the summary and the report."
    )
    cpus: float = Field(
        0.0, ge=0, description="CPUs reserved for the evaluator; 0 lets it share with the groups."
    )
    gpus: float = Field(0.0, ge=0, description="GPUs reserved for the evaluator.")


class RunSpec(Spec):
    """Everything that the two trainers share; a run is a pure function of it in lockstep."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, shuffles and sampling.")
    intervals: int = Field(40, ge=1, description="Intervals that the data group trains.")
    corpus: CorpusSpec
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec)
    data: DataGroupSpec = Field(default_factory=DataGroupSpec)
    memory: MemoryGroupSpec = Field(default_factory=MemoryGroupSpec)
    losses: LossWeights = Field(default_factory=LossWeights)
    mix: MixSpec = Field(default_factory=MixSpec)
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)

    def group(self, name: str) -> DataGroupSpec | MemoryGroupSpec:
        """The settings of the group of that name."""
        return self.data if name == DATA else self.memory

    def total_steps(self, group: str) -> int:
        """Optimizer steps that the group's learning-rate schedule spans."""
        return self.intervals * self.group(group).steps_per_interval
