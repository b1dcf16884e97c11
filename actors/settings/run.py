"""The settings of a run that its trainers need. No torch.

`orchestrator.settings.config` adds what only the driver needs and turns validation errors into
messages for people.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from actors.settings.base import Spec
from actors.settings.corpus import CorpusSpec, TokenizerSpec
from actors.settings.evaluation import EvaluationSpec
from actors.settings.fields import Mark, OnlyWith
from actors.settings.groups import DataGroupSpec, MemoryGroupSpec
from actors.settings.teach import TeachSpec

DATA = "data"
EVALUATOR = "evaluator"  # not a group: one process beside them
MEMORY = "memory"
GROUPS = (DATA, MEMORY)


def peer_of(group: str) -> str:
    """The other group's name."""
    return MEMORY if group == DATA else DATA


class LossWeights(Spec):
    """Weights of the losses; 0 switches one off. Each is measured and reported at any weight."""

    model_config = ConfigDict(serialize_by_alias=True)  # `self` can't be an attribute's name

    own: float = Field(1.0, ge=0, description="Next-token loss of the data layer alone.")
    help: float = Field(1.0, ge=0, description="Next-token loss of both layers together.")
    reader: float = Field(
        1.0,
        ge=0,
        description="Next-token loss of the data layer's own distribution where it reads the "
        "memory, in addition to help. Without it, what the memory already knows hardly trains the "
        "data layer.",
    )
    general: float = Field(
        4.0,
        ge=0,
        description="The memory port, and adapters, learn to change nothing on general text "
        "(`data.general_frac`). Lower, the mixing weight λ opens there too before it can tell such "
        "text from the run's own.",
    )
    recall: float = Field(
        1.25,
        ge=0,
        description="The memory learns to predict what the data layer predicts. More imitates more "
        "closely, less lets the memory know what the data layer does not.",
    )
    self_: float = Field(
        1.0, ge=0, alias="self", description="Next-token loss of the memory alone."
    )
    given: float = Field(
        0.1,
        ge=0,
        description="Next-token loss of the memory alone on tokens that are only given, not to be "
        "learned: prompts, or all but the answers with corpus.loss_on `answers`. It makes the "
        "memory able to write whole documents, which teaching and `tandem learn` rehearse instead "
        "of the corpus. On the sequences of memory.given_frac. 0: a memory of answers alone, which "
        "can't write; nothing where every token is learned.",
    )
    self_yields: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much less `self` counts where the data layer is sure of another token "
        "than the text has: at 1 the text does not count there at all, so that the memory follows "
        "a data layer that was taught something else. Only on sequences on which recall is "
        "computed (memory.recall_frac).",
    )
    recall_yields: float = Field(
        1.0,
        ge=0,
        description="How much less recall counts where the memory is surer than the data layer: it "
        "is multiplied with exp(-a*d), a this setting and d the nats by which the data layer's "
        "entropy is higher. So a data layer that knows nothing yet does not keep the memory from "
        "learning. 0: it counts everywhere.",
    )
    encoder: float = Field(
        3.0,
        ge=0,
        description="Recall and self, at their own weights, of what the memory's encoder would "
        "predict without its slots. Trains addresses that also fit unseen wordings; used in "
        "training only.",
    )
    balance: float = Field(
        0.01,
        ge=0,
        description="Even use of the slots; raise it where heldout.slots_used_frac stays low.",
    )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The losses, by their names in configs and reports; `*_yields` say how one is weighted."""
        fields = (field.alias or name for name, field in cls.model_fields.items())
        return tuple(name for name in fields if not name.endswith("_yields"))

    @model_validator(mode="after")
    def _each_group_learns(self) -> Self:
        if self.own + self.help == 0:
            raise ValueError(
                "losses.own and losses.help are both 0: the data group would train on nothing; "
                "raise one of them"
            )
        if self.recall + self.self_ == 0:
            raise ValueError(
                "losses.recall and self are both 0: the memory group would train on "
                "nothing; raise one of them"
            )
        return self


class MixSpec(Spec):
    """What the memory's batches consist of; the shares are relative to their sum."""

    just_trained: float = Field(
        0.5,
        ge=0,
        description="Share of text that the data layer trained on since its last snapshot.",
    )
    fresh: float = Field(
        0.3, ge=0, description="Share of text from the memory's own shuffle of the training split."
    )
    replay: float = Field(0.2, ge=0, description="Share of windows of earlier intervals.")
    sampled: float = Field(
        0.0,
        ge=0,
        description="Share of text that the data layer generates: it continues prompts, or the "
        "first halves of documents of plain text, so that the memory learns its whole answers. "
        "Costs about one forward pass per generated token.",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.just_trained + self.fresh + self.replay + self.sampled == 0:
            raise ValueError(
                "all shares are 0: the memory would have no batches; raise one, e.g. just_trained"
            )
        return self

    def counts(self, batch_size: int) -> dict[str, int]:
        """Sequences of each kind in a batch of `batch_size`, by largest remainder."""
        shares = {kind: float(share) for kind, share in self}
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
        description="`lockstep`: interval i adopts the peer's version i-1, and the run is a pure "
        "function of its config. `async`: it adopts the newest version, so that a slow interval of "
        "one group does not stop the other.",
    )
    staleness: Annotated[int, OnlyWith("exchange.mode", "async")] = Field(
        1,
        ge=1,
        description="Versions by which an adopted snapshot may be behind the group that adopts it, "
        "and by which a group may be ahead of what its peer has adopted; beyond that it waits.",
    )
    publish_every: int = Field(
        1,
        ge=1,
        description="Intervals between published snapshots; raise it where the exchange of a large "
        "layer takes a noticeable share of an interval.",
    )
    wire: Literal["stored", "bf16"] = Field(
        "stored",
        description="Number format of published snapshots. `bf16` halves the bytes exchanged and "
        "rounds the weights that the peer reads; a run's last snapshots are always exact.",
    )
    catchup_intervals: Annotated[int, Mark.RESUMABLE] = Field(
        8,
        ge=1,
        description="Most intervals that the memory trains after the data layer's last one, to "
        "catch up with it; fewer where it already reflects it.",
    )

    @model_validator(mode="after")
    def _lockstep_has_no_slack(self) -> Self:
        if self.mode == "lockstep" and self.staleness != 1:
            raise ValueError(
                f"staleness {self.staleness} needs mode async, got mode lockstep, where it is "
                "always 1; set exchange.mode=async, or remove staleness"
            )
        return self


class RunSpec(Spec):
    """Everything that decides what the trainers compute; in lockstep a run is a function of it."""

    seed: Annotated[int, Mark.SET_BY_SEARCH] = Field(
        0, ge=0, lt=2**31, description="Seed of weights, shuffles and sampling."
    )
    intervals: int = Field(
        40, ge=1, description="Intervals that the data group trains: the length of the run."
    )
    deterministic: bool = Field(
        True,
        description="On GPUs: use kernels that give the same bits every time, so that a lockstep "
        "run is a pure function of its config, as on CPUs. Set it false for the fastest kernels, "
        "or where a model needs a kernel without a deterministic form.",
    )
    logit_tokens: Annotated[int | None, Mark.RESUMABLE] = Field(
        None,
        ge=1,
        description="Tokens whose logits are held at once, in both groups, in evaluations and in "
        "answers: the losses of a pass with more tokens are computed so many positions at a time. "
        "Unset: as many as make 24 MiB of logits on a CPU, 1 GiB on a GPU. Lower it where a worker "
        "runs out of memory.",
    )
    corpus: CorpusSpec
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec)
    data: DataGroupSpec = Field(default_factory=DataGroupSpec)
    memory: MemoryGroupSpec = Field(default_factory=MemoryGroupSpec)
    losses: Annotated[LossWeights, Mark.PERTURBABLE] = Field(default_factory=LossWeights)
    mix: Annotated[MixSpec, Mark.PERTURBABLE] = Field(default_factory=MixSpec)
    evaluation: Annotated[EvaluationSpec, Mark.RESUMABLE] = Field(default_factory=EvaluationSpec)
    exchange: ExchangeSpec = Field(default_factory=ExchangeSpec)
    teach: TeachSpec = Field(default_factory=TeachSpec)

    @model_validator(mode="after")
    def _a_copy_has_something_to_copy(self) -> Self:
        layer = self.memory.layer
        if layer.encoder == "frozen_copy" and not (self.data.layer.pretrained or layer.start_from):
            raise ValueError(
                "memory.layer.encoder frozen_copy needs data.layer.pretrained (or "
                "memory.layer.start_from): a frozen copy of fresh weights knows nothing; set one "
                "of them, or memory.layer.encoder=conv"
            )
        return self

    @model_validator(mode="after")
    def _a_port_has_a_loss(self) -> Self:
        layer = self.data.layer
        if layer.keeps_model and self.teach.is_on:
            raise ValueError(
                "data.layer.train port can't be taught: nothing of the model would change; set it "
                "to all, lora or patterns"
            )
        if layer.keeps_model and self.losses.help == 0:
            raise ValueError(
                "data.layer.train port with losses.help 0: own trains the model alone, so nothing "
                "would train; raise losses.help, or set data.layer.train to all or lora"
            )
        return self

    @model_validator(mode="after")
    def _what_is_said_is_enough(self) -> Self:
        if self.memory.teacher != "said":
            return self
        needs = {
            "teach": self.teach.is_on,
            "mix.sampled": self.mix.sampled > 0,
            "losses.self_yields": self.losses.self_yields > 0,
        }
        if asks := [name for name, needed in needs.items() if needed]:
            raise ValueError(
                f"memory.teacher said leaves the memory group no data layer to ask, which "
                f"{asks[0]} does; set memory.teacher=mirror"
                + ("" if asks[0] == "teach" else f", or {asks[0]}=0")
            )
        if not self.num_alone:
            raise ValueError(
                "memory.teacher said, but every sequence of the data group reads the memory (as "
                "with data.layer.train port, or losses.own 0), so that nothing is said without "
                "it; set memory.teacher=mirror"
            )
        return self

    @property
    def num_reading(self) -> int:
        """Sequences of the data group's batch that read the memory."""
        if self.losses.help == 0:
            return 0
        if self.losses.own == 0 or self.data.layer.keeps_model:
            return self.data.batch_size
        return self.data.num_helped

    @property
    def num_alone(self) -> int:
        """Those that don't."""
        return self.data.batch_size - self.num_reading

    @property
    def shows_general_text(self) -> bool:
        """Whether evaluations show the loss on general text."""
        chosen = self.evaluation
        is_wanted = chosen.general_text is not None or self.data.layer.pretrained is not None
        return is_wanted and chosen.general_windows > 0

    def group(self, name: str) -> DataGroupSpec | MemoryGroupSpec:
        """The settings of the group of that name."""
        return self.data if name == DATA else self.memory

    def total_steps(self, group: str) -> int:
        """Optimizer steps that the group's learning-rate schedule spans."""
        return self.intervals * self.group(group).steps_per_interval
