"""The settings of a run that its trainers need: frozen, validated at birth, free of torch and Ray.

Every field says what it means, its unit and when to change it. `orchestrator.config` adds what only
the driver needs and turns validation errors into messages for people.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DATA = "data"
MEMORY = "memory"
GROUPS = (DATA, MEMORY)


def peer_of(group: str) -> str:
    """The other group's name."""
    return MEMORY if group == DATA else DATA


DecayRate = Annotated[float, Field(ge=0, lt=1)]


class Spec(BaseModel):
    """Base of all settings: frozen, unknown keys refused, defaults validated too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class CorpusSpec(Spec):
    """Where the training text comes from and how it is cut into windows."""

    kind: Literal["text", "facts"] = Field(
        "text",
        description="`text`: plain files; `facts`: JSONL of subject, relation, object plus "
        "sentence templates.",
    )
    paths: tuple[str, ...] = Field(
        min_length=1, description="Files, globs or directories; any fsspec URL."
    )
    templates: str | None = Field(
        None,
        description="facts only: JSON file, relation -> list of {pattern, lemma, tense} with [X] "
        "and [Y].",
    )
    relations: tuple[str, ...] | None = Field(
        None, description="facts only: use just these relations (default: all)."
    )
    max_facts: int | None = Field(
        None, ge=1, description="facts only: use the first so many facts, for a smaller run."
    )
    heldout_lemmas: int = Field(
        1,
        ge=0,
        description="facts only: verb lemmas held out per relation; their wordings are asked, "
        "never trained on.",
    )
    loss_on: Literal["all", "answers"] = Field(
        "all",
        description="facts only: `answers` uses the wordings that end in the object, reads up to "
        "it and learns the object, so that capacity and gradient go to what the question "
        "determines; `all` learns every token of every wording.",
    )
    heldout_frac: float = Field(
        0.05, gt=0, lt=0.5, description="text only: share of blocks that nothing trains on."
    )
    window: int = Field(
        96,
        ge=8,
        le=131072,
        description="Tokens per packed sequence (the context length of a batch).",
    )
    token_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a training batch's input tokens replaced by random ones (targets "
        "stay); "
        "teaches small corpora to answer in wordings they never saw.",
    )
    block_bytes: int = Field(
        16384, ge=256, description="text only: bytes read, split off or held out as one unit."
    )
    shuffle_blocks: int = Field(
        64, ge=1, description="Blocks shuffled together; more mixes better and takes more memory."
    )

    @model_validator(mode="after")
    def _facts_need_templates(self) -> Self:
        if self.kind == "facts" and not self.templates:
            raise ValueError(
                "kind 'facts' needs `templates`: a JSON file, relation -> list of {pattern, lemma}"
            )
        return self


class TokenizerSpec(Spec):
    """The byte-level BPE trained on the training split alone and kept with the run."""

    vocab_size: int = Field(
        2048, ge=300, le=262144, description="Rows of the vocabulary, the 256 bytes included."
    )


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


class DataLayerSpec(Spec):
    """A Hugging Face causal LM with fresh weights, and where its memory port reads."""

    model_type: str = Field("llama", description="Hugging Face model type, e.g. llama or gpt2.")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of that model's config, e.g. hidden_size; vocab_size comes from us.",
    )
    read_layers: tuple[int, ...] = Field(
        (1, 3),
        min_length=1,
        description="Decoder layers (from 0) after which the memory is read into the residual.",
    )

    @model_validator(mode="after")
    def _layers_differ(self) -> Self:
        if len(set(self.read_layers)) != len(self.read_layers) or min(self.read_layers) < 0:
            raise ValueError(f"read_layers must be distinct and >= 0, got {list(self.read_layers)}")
        return self


class MemoryLayerSpec(Spec):
    """The token-addressed product-key memory."""

    dim: int = Field(128, ge=8, description="Width d_m of encoder, slots and read.")
    slots_side: int = Field(
        128, ge=4, description="n of the n*n slots; more slots hold more and cost table memory."
    )
    heads: int = Field(2, ge=1, description="Independent searches per token.")
    topk: int = Field(16, ge=1, description="Slots read per head.")
    key_dim: int = Field(32, ge=4, description="Width of one half key.")
    conv_dilations: tuple[int, ...] = Field(
        (1, 2, 4),
        min_length=1,
        description="One gated causal convolution per entry, with that dilation.",
    )
    conv_taps: int = Field(
        4, ge=2, description="Taps of each convolution; reach is the sum of dilation*(taps-1)."
    )

    attention_heads: int = Field(
        4,
        ge=0,
        description="Heads of the attention block before the last convolution; 0: none. Finds "
        "a subject wherever it stands, so that other wordings lead to the same slots.",
    )

    tie_embeddings: bool = Field(
        True,
        description="Use the encoder's token embeddings as output matrix too; fewer parameters.",
    )

    @model_validator(mode="after")
    def _topk_fits(self) -> Self:
        if self.topk > self.slots_side:
            raise ValueError(
                f"topk {self.topk} is more than slots_side {self.slots_side}; lower topk or add "
                "slots"
            )
        if self.attention_heads and self.dim % self.attention_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of attention_heads {self.attention_heads}"
            )
        return self

    @property
    def num_slots(self) -> int:
        """Rows of the value table."""
        return self.slots_side * self.slots_side


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
