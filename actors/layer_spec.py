"""Settings of the two layers: what they are, not how they are trained. No torch."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from actors.settings import Spec


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
