"""Settings of the two layers: what they are, not how they are trained. No torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec

CONV_FIELDS = ("conv_dilations", "conv_taps", "attention_heads", "tie_embeddings")
COPY_FIELDS = ("copy_layers",)
DROPOUT_ENDINGS = ("dropout", "pdrop")  # how the families name the fields that change no weight


class DataLayerSpec(Spec):
    """A Hugging Face causal LM, its starting weights, and where its memory port reads."""

    pretrained: str | None = Field(
        None,
        min_length=1,
        description="Where the starting weights come from: a checkpoint folder (config.json and "
        "safetensors), a Hugging Face name such as Qwen/Qwen2.5-0.5B, or an earlier run's "
        "directory or export, whose memory port is then taken too. Unset: fresh weights of "
        "`model_type` and `fields`. Set tokenizer.pretrained to match.",
    )
    model_type: str = Field(
        "llama",
        description="Hugging Face model type of fresh weights, e.g. llama, gpt2 or qwen3; a "
        "checkpoint has its own, and this is not looked at.",
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of that model's config, e.g. hidden_size; vocab_size comes from us. "
        "With `pretrained` only dropout probabilities, since all else would change what the "
        "weights mean.",
    )
    allow_unexpected: bool = Field(
        False,
        description="Load `pretrained` although its files hold tensors that its config.json has no "
        "place for. Otherwise they are named and refused, since a model that lost its biases or "
        "its last layers is another model. Set it where you know that they are not needed, such as "
        "a vision tower or heads for speculative decoding.",
    )
    fresh_port: bool = Field(
        False,
        description="Start with a fresh memory port even where `pretrained` is an earlier run; "
        "needed when read_layers or memory.layer.dim differ from that run's.",
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description="Attention kernels: `auto` takes sdpa where the family has it. Others don't "
        "take the mask that keeps packed documents apart.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep no activations inside decoder layers and compute them again in the "
        "backward pass: about a third more compute for much less memory; same gradients.",
    )
    compile: bool = Field(
        False,
        description="torch.compile of each decoder layer in training: minutes at the start, "
        "faster steps after; worth it for long runs on GPUs.",
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

    @model_validator(mode="after")
    def _a_checkpoint_keeps_its_config(self) -> Self:
        wrong = [name for name in self.fields if not name.endswith(DROPOUT_ENDINGS)]
        if self.pretrained is not None and wrong:
            raise ValueError(
                f"fields.{wrong[0]} can't be set together with pretrained ({self.pretrained}): the "
                "checkpoint's own config says what its weights mean; only dropout probabilities "
                "may be changed. Remove it, or remove pretrained for fresh weights"
            )
        return self


class MemoryLayerSpec(Spec):
    """The token-addressed product-key memory."""

    start_from: str | None = Field(
        None,
        min_length=1,
        description="An earlier run's directory or export, whose memory layer's weights are the "
        "starting weights; all sizes must be that run's. Unset: fresh weights.",
    )
    encoder: Literal["conv", "frozen_copy"] = Field(
        "conv",
        description="What turns tokens into addresses: `conv`, gated causal convolutions trained "
        "with the memory; `frozen_copy`, for a pretrained data layer, a copy of its starting "
        "embedding and first layers that nothing changes.",
    )
    copy_layers: int = Field(
        2, ge=1, description="frozen_copy only: decoder layers copied from the data layer."
    )
    dim: int = Field(128, ge=8, description="Width d_m of encoder, slots and read.")
    slots_side: int = Field(
        128, ge=4, description="n of the n*n slots; more slots hold more and cost table memory."
    )
    heads: int = Field(4, ge=1, description="Independent searches per token.")
    topk: int = Field(32, ge=1, description="Slots read per head.")
    key_dim: int = Field(32, ge=4, description="Width of one half key.")
    gate: bool = Field(
        False,
        description="Multiply what was read, element by element, with a gate made from the tokens. "
        "Such a gate learns to answer by itself, so that little of the memory is in its slots.",
    )
    conv_dilations: tuple[int, ...] = Field(
        (1, 2, 4),
        min_length=1,
        description="conv only: one gated causal convolution per entry, with that dilation.",
    )
    conv_taps: int = Field(
        4,
        ge=2,
        description="conv only: taps of each convolution; reach is the sum of dilation*(taps-1).",
    )

    attention_heads: int = Field(
        4,
        ge=0,
        description="conv only: heads of the attention block before the last convolution; 0: none. "
        "Finds a subject wherever it stands, so that other wordings lead to the same slots.",
    )

    tie_embeddings: bool = Field(
        True,
        description="conv only: use the encoder's token embeddings as output matrix too; fewer "
        "parameters. A frozen copy's can't be trained, so there the memory has its own.",
    )
    compile: bool = Field(
        False,
        description="torch.compile of the encoder's blocks in training: minutes at the start, "
        "faster steps after; worth it for long runs on GPUs.",
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
    def ties_output(self) -> bool:
        """Whether the encoder's embeddings are the output matrix."""
        return self.tie_embeddings and self.encoder == "conv"

    def identity(self) -> dict[str, Any]:
        """The fields that say what the layer computes; weights fit where these are equal."""
        other = {"start_from", "compile", *(CONV_FIELDS if self.encoder != "conv" else COPY_FIELDS)}
        return self.model_dump(mode="json", exclude=other)

    @property
    def num_slots(self) -> int:
        """Rows of the value table."""
        return self.slots_side * self.slots_side
