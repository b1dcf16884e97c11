"""The settings of a run that its trainers need: frozen, validated at birth, free of torch and Ray.

Every field says what it means, its unit and when to change it. `orchestrator.settings.config` adds
what only the driver needs and turns validation errors into messages for people.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from actors.settings.base import Spec
from actors.settings.corpus import CorpusSpec, TokenizerSpec
from actors.settings.evaluation import EvaluationSpec as EvaluationSpec
from actors.settings.layers import DataLayerSpec, MemoryLayerSpec
from actors.settings.node_labels import NodeLabels

DATA = "data"
EVALUATOR = "evaluator"  # no group: a process beside them
MEMORY = "memory"
GROUPS = (DATA, MEMORY)


def peer_of(group: str) -> str:
    """The other group's name."""
    return MEMORY if group == DATA else DATA


DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Spec):
    """AdamW of the dense parameters of one layer, with warm-up and a schedule after it."""

    lr: float = Field(2e-3, gt=0, description="Peak learning rate of the dense parameters.")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="How the rate goes from its peak to its final share; wsd: stays at the peak "
        "and falls linearly over the last part (warm-up, stable, decay).",
    )
    decay_frac: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of all steps over which the rate falls."
    )
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
        1,
        ge=1,
        description="Trainer processes of this group; the global batch is split among them.",
    )
    cpus: float = Field(
        1.0,
        gt=0,
        description="CPUs of each worker; its torch threads are this, rounded down, >= 1.",
    )
    gpus: float = Field(0.0, ge=0, description="GPUs of each worker; a fraction shares a card.")
    node_labels: NodeLabels = Field(
        default_factory=dict,
        description="Only nodes with these Ray labels take this group's workers, e.g. "
        "{tandem-group: data}; also !value, in(a, b), !in(a, b). Set it on a cluster whose node "
        "types are meant for one group each; empty: any node.",
    )
    backend: Literal["auto", "gloo", "nccl"] = Field(
        "auto",
        description="How gradients are summed; auto: nccl where every worker has a card of its "
        "own, else gloo.",
    )
    collective_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds that a worker waits for the others of its group; raise it for very "
        "slow networks.",
    )

    @property
    def resolved_backend(self) -> str:
        """What `auto` comes to."""
        if self.backend != "auto":
            return self.backend
        return "nccl" if self.gpus >= 1 and self.num_workers > 1 else "gloo"

    @model_validator(mode="after")
    def _nccl_needs_cards(self) -> Self:
        if self.backend == "nccl" and self.gpus < 1:
            raise ValueError(
                f"backend nccl needs a whole GPU per worker, got gpus {self.gpus:g}; use gloo"
            )
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus above 1 must be whole, got {self.gpus:g}")
        return self


class _GroupSpec(Spec):
    """What both groups' settings share."""

    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    workers: WorkersSpec = Field(default_factory=WorkersSpec)
    batch_size: int = Field(16, ge=1, description="Sequences per optimizer step, over all workers.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Gradient accumulation: passes into which a worker splits its share of the "
        "batch; more passes take less memory.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Number format of forward and backward passes; weights, optimizer and losses "
        "stay float32.",
    )
    steps_per_interval: int = Field(
        20, ge=1, description="Optimizer steps between exchanges; aim at seconds."
    )

    @model_validator(mode="after")
    def _every_pass_has_a_sequence(self) -> Self:
        passes = self.workers.num_workers * self.accumulate
        if self.batch_size < passes:
            raise ValueError(
                f"batch_size {self.batch_size} is less than workers.num_workers "
                f"{self.workers.num_workers} x accumulate {self.accumulate}; every pass needs a "
                "sequence"
            )
        return self


class DataGroupSpec(_GroupSpec):
    """The data layer and the group that trains it."""

    layer: DataLayerSpec = Field(default_factory=DataLayerSpec)
    batch_size: int = Field(16, ge=2, description="Sequences per optimizer step, over all workers.")
    help_frac: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Memory dropout: share of a batch's sequences that read the memory.",
    )
    mixing_noise: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Share of the input tokens replaced where the mixing weight λ is learned, a "
        "pass of its own over half of what reads: of text that the memory has by heart λ would "
        "learn to believe the memory everywhere. 0: λ is learned from help itself.",
    )


class MemoryGroupSpec(_GroupSpec):
    """The memory layer and the group that trains it."""

    layer: MemoryLayerSpec = Field(default_factory=MemoryLayerSpec)
    value_lr: float = Field(
        1e-2, gt=0, description="Learning rate of the value table; 5 to 10 times the dense one."
    )
    value_clip: float = Field(
        1.0, gt=0, description="Largest gradient norm of the value table per step."
    )
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
    reader: float = Field(
        1.0,
        ge=0,
        description="Data layer by itself where it reads, beside help: without it, what the memory "
        "knows already teaches the data layer little.",
    )
    recall: float = Field(1.0, ge=0, description="Memory says what the data layer would say.")
    self_: float = Field(1.0, ge=0, alias="self", description="Memory alone on the text.")
    self_yields: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How far `self` gives way where the data layer is sure of something else than "
        "the text: at 1 the text counts nothing there, so that the memory follows a data layer "
        "that was taught elsewhere. Only on what recall or sync ask (recall_frac, sync_frac).",
    )
    recall_yields: float = Field(
        1.0,
        ge=0,
        description="How far recall and sync give way where the memory is surer than the data "
        "layer: the teacher counts exp(this times the nats of entropy that it has more). A data "
        "layer that knows nothing yet then does not keep the memory from learning; one that is "
        "sure of something else is followed. 0: recall counts everywhere.",
    )
    encoder: float = Field(
        3.0,
        ge=0,
        description="Recall and self of what the memory's encoder would say without its slots, at "
        "their weights: what it then makes addresses of carries over to wordings that it never "
        "saw. In training alone.",
    )
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
    sampled: float = Field(
        0.0,
        ge=0,
        description="Openings of the memory's own text (prompts; of plain text half a document) as "
        "the data layer continues them, so that the memory hears its whole answers. Costs about a "
        "forward per token continued.",
    )

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


class ExchangeSpec(Spec):
    """How the two groups exchange snapshots."""

    mode: Literal["lockstep", "async"] = Field(
        "lockstep",
        description="lockstep: interval i adopts the peer's version i-1, and the run is a pure "
        "function of its config; async: the newest there is, so that a slow interval of one group "
        "need not stop the other.",
    )
    staleness: int = Field(
        1,
        ge=1,
        description="async: versions, at most, by which what a group adopts is behind it, and by "
        "which it runs ahead of what the peer has adopted; past that it waits.",
    )
    publish_every: int = Field(
        1,
        ge=1,
        description="Intervals between snapshots; raise it where exchanging a big layer costs a "
        "noticeable share of an interval.",
    )
    wire: Literal["stored", "bf16"] = Field(
        "stored",
        description="Number format of snapshots; bf16 halves what is exchanged and rounds what the "
        "peer sees. A run's last ones are always exact.",
    )
    catchup_intervals: int = Field(
        8,
        ge=1,
        description="Intervals, at most, in which the memory catches up with the final data layer.",
    )

    @model_validator(mode="after")
    def _lockstep_has_no_slack(self) -> Self:
        if self.mode == "lockstep" and self.staleness != 1:
            raise ValueError(
                f"staleness {self.staleness} needs mode async; in lockstep it is always 1"
            )
        return self


class RunSpec(Spec):
    """Everything that the two trainers share; a run is a pure function of it in lockstep."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, shuffles and sampling.")
    intervals: int = Field(40, ge=1, description="Intervals that the data group trains.")
    deterministic: bool = Field(
        True,
        description="On GPUs: kernels that give the same bits every time, so that a lockstep run "
        "is a pure function of its config there too (on CPUs it always is); false: the fastest "
        "ones, and models that need a kernel which has no such form.",
    )
    corpus: CorpusSpec
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec)
    data: DataGroupSpec = Field(default_factory=DataGroupSpec)
    memory: MemoryGroupSpec = Field(default_factory=MemoryGroupSpec)
    losses: LossWeights = Field(default_factory=LossWeights)
    mix: MixSpec = Field(default_factory=MixSpec)
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    exchange: ExchangeSpec = Field(default_factory=ExchangeSpec)

    @model_validator(mode="after")
    def _a_copy_has_something_to_copy(self) -> Self:
        layer = self.memory.layer
        if layer.encoder == "frozen_copy" and not (self.data.layer.pretrained or layer.start_from):
            raise ValueError(
                "memory.layer.encoder frozen_copy needs data.layer.pretrained (or "
                "memory.layer.start_from): a frozen copy of fresh weights knows nothing"
            )
        return self

    def group(self, name: str) -> DataGroupSpec | MemoryGroupSpec:
        """The settings of the group of that name."""
        return self.data if name == DATA else self.memory

    def total_steps(self, group: str) -> int:
        """Optimizer steps that the group's learning-rate schedule spans."""
        return self.intervals * self.group(group).steps_per_interval
