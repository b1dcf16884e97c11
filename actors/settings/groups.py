"""Settings of each group: its layer, the optimizer, the processes and the batches. No torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from actors.settings.fields import Mark, OnlyWith
from actors.settings.layers import DataLayerSpec, MemoryLayerSpec
from actors.settings.node_labels import NodeLabels

KEPT_READS = 32768  # positions that a memory keeps
PORT_LR = 1e-2  # of a port beside a model that trains in part or not at all
GENERAL_FRAC = 0.125  # of a batch, beside a model that trains in part or not at all
DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Spec):
    """AdamW of the dense parameters of one layer: learning rate, its schedule, decay, clipping."""

    lr: Annotated[float, Mark.PERTURBABLE, Mark.FITTED] = Field(
        2e-3,
        gt=0,
        description="Peak learning rate of the dense parameters; lower it where losses jump or a "
        "pretrained layer forgets.",
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="How the rate falls from its peak after the warm-up. `wsd` (warm-up, stable, "
        "decay): stays at the peak and falls linearly over the last steps.",
    )
    decay_frac: Annotated[float, OnlyWith("schedule", "wsd")] = Field(
        0.2, gt=0, le=1, description="Share of all steps over which the rate falls."
    )
    final_lr_frac: float = Field(
        0.1, ge=0, le=1, description="The rate at the last step as a share of the peak."
    )
    warmup_steps: Annotated[int, Mark.FITTED] = Field(
        20, ge=0, description="Steps over which the rate rises linearly to its peak."
    )
    betas: Annotated[tuple[DecayRate, DecayRate], Mark.PERTURBABLE, Mark.ADVANCED] = Field(
        (0.9, 0.98), description="AdamW's decay rates of the first and second moment."
    )
    weight_decay: Annotated[float, Mark.PERTURBABLE, Mark.FITTED] = Field(
        0.01,
        ge=0,
        description="AdamW's weight decay of matrices; vectors and the value table have none.",
    )
    clip_norm: Annotated[float, Mark.PERTURBABLE] = Field(
        1.0,
        gt=0,
        description="Norm to which the gradient of the dense parameters is clipped at every step.",
    )


class WorkersSpec(Spec):
    """The processes of one group."""

    num_workers: int = Field(
        1,
        ge=1,
        description="Trainer processes of this group; the batch is split among them.",
    )
    cpus: float = Field(
        1.0,
        gt=0,
        description="CPUs reserved for each worker; it computes with as many threads (rounded "
        "down, at least 1).",
    )
    gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs reserved for each worker, a fraction to share one; 0: it computes on "
        "CPUs.",
    )
    node_labels: NodeLabels = Field(
        default_factory=dict,
        description="The workers run only on nodes with these Ray labels, e.g. "
        "{tandem-group: data}; also !value, in(a, b), !in(a, b). Set it on a cluster whose node "
        "types are meant for one group each; empty: any node.",
    )
    backend: Literal["auto", "gloo", "nccl"] = Field(
        "auto",
        description="How gradients are summed over the workers; `auto`: nccl where every worker "
        "has a GPU of its own, else gloo.",
    )
    collective_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds that a worker waits for the others of its group in a collective "
        "operation; raise it for very slow networks.",
    )

    @property
    def resolved_backend(self) -> str:
        """The backend; `auto` resolved."""
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
            raise ValueError(
                f"gpus above 1 must be a whole number, got {self.gpus:g}; Ray gives out fractions "
                "of one GPU only"
            )
        return self


class _GroupSpec(Spec):
    """Settings that both groups have."""

    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    workers: Annotated[WorkersSpec, Mark.RESUMABLE] = Field(default_factory=WorkersSpec)
    batch_size: Annotated[int, Mark.FITTED] = Field(
        16, ge=1, description="Sequences per optimizer step, over all workers."
    )
    accumulate: Annotated[int, Mark.RESUMABLE] = Field(
        1,
        ge=1,
        description="Gradient accumulation: passes into which a worker splits its share of the "
        "batch; raise it where a worker runs out of memory.",
    )
    precision: Annotated[Literal["fp32", "bf16"], Mark.FITTED] = Field(
        "fp32",
        description="Number format of forward and backward passes; weights, optimizer and losses "
        "are always float32. bf16 is faster on GPUs.",
    )
    steps_per_interval: Annotated[int, Mark.FITTED] = Field(
        20,
        ge=1,
        description="Optimizer steps per interval, between two exchanges; choose it so that an "
        "interval takes some seconds.",
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
    batch_size: Annotated[int, Mark.FITTED] = Field(
        16, ge=2, description="Sequences per optimizer step, over all workers."
    )
    port_lr: Annotated[float | None, Mark.FITTED] = Field(
        None,
        gt=0,
        description="Peak learning rate of the memory port, with the schedule of `optimizer`. "
        "Unset: `optimizer.lr` where all of the data layer trains, else 1e-2, since a port is "
        "fresh where the model is not.",
    )
    help_frac: Annotated[float, Mark.PERTURBABLE] = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a batch's sequences that read the memory; the others train the data "
        "layer alone (memory dropout). With `layer.train: port` all of them read, and on the share "
        "of the others own is measured once per interval.",
    )
    mixing_noise: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Share of the input tokens replaced by random ones in the pass that trains the "
        "mixing weight λ, a separate pass over half of the sequences that read. On memorised text "
        "the memory is always right, and λ would learn to trust it everywhere. 0: no such pass; λ "
        "is trained by the help loss. One such pass serves five steps.",
    )

    general_frac: Annotated[float | None, Mark.FITTED] = Field(
        None,
        ge=0,
        le=1,
        description="Sequences of general text (`evaluation.general_text`, or the sample that "
        "ships with the package) in each step, as a share of `batch_size` and beside it, each half "
        "as long as `corpus.window`. On them the memory port, and adapters, learn to change "
        "nothing, so that text that is none of the memory's stays as it is. Unset: 0.125 beside a "
        "pretrained model that is large or does not train whole, else 0.",
    )

    @property
    def num_helped(self) -> int:
        """Sequences that read beside others that train the data layer alone."""
        return min(max(1, round(self.batch_size * self.help_frac)), self.batch_size - 1)

    @property
    def own_port_lr(self) -> float | None:
        """The port's peak rate; None: it has that of the rest."""
        if self.port_lr is None and self.layer.keeps_some:
            return PORT_LR
        return self.port_lr

    @property
    def num_general(self) -> int:
        """Sequences of general text in each step."""
        frac = self.general_frac
        if frac is None:
            frac = GENERAL_FRAC if self.layer.keeps_some else 0.0
        return max(1, round(frac * self.batch_size)) if frac else 0


class MemoryGroupSpec(_GroupSpec):
    """The memory layer and the group that trains it."""

    layer: MemoryLayerSpec = Field(default_factory=MemoryLayerSpec)
    teacher: Literal["mirror", "said"] = Field(
        "mirror",
        description="Whom the memory recalls. `mirror`: a copy of the data layer, asked on a share "
        "of each batch. `said`: nobody is asked; on the text that the data layer just trained on "
        "without reading, its own likeliest tokens come with each version, and the memory's "
        "workers hold no copy of it. Then fresh and replayed text teach the text alone.",
    )
    value_lr: Annotated[float, Mark.PERTURBABLE, Mark.FITTED] = Field(
        1e-2,
        gt=0,
        description="Peak learning rate of the value table; 5 to 10 times `memory.optimizer.lr`.",
    )
    value_clip: Annotated[float, Mark.PERTURBABLE, Mark.ADVANCED] = Field(
        1.0,
        gt=0,
        description="Norm to which the gradient of the value table is clipped at every step.",
    )
    recall_frac: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a batch's sequences on which recall is computed; lower it where the "
        "data layer's forward pass for it takes too long.",
    )
    given_frac: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Share of a batch's sequences on which `losses.given` is computed; lower it "
        "where the reads for it take too long.",
    )
    replay_windows: int = Field(
        2048,
        ge=0,
        description="Windows of earlier intervals that are remembered, for `mix.replay` to draw "
        "from.",
    )
    kept_reads: int = Field(
        KEPT_READS,
        ge=0,
        description="Positions of its training text that the memory keeps, as tokens, beside its "
        "weights: what it reads there stays as it is when something is told (`tandem tell`). More "
        "keep more of the old, and take longer to be read before a tell; 0: none, and telling "
        "changes what is near.",
    )
