"""Settings of the two layers: what they are, not how they are trained. No torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from actors.settings.base import Spec
from actors.settings.fields import Mark, OnlyWith, PathTo, only_with

CONV_ONLY = OnlyWith("encoder", "conv")
COPY_ONLY = OnlyWith("encoder", "frozen_copy")
KEYS_ONLY = OnlyWith("addresses", "product_keys")
NGRAMS_ONLY = OnlyWith("addresses", "ngrams")
FEWEST_ROWS = 16  # of the value table for each order of n-grams in each head
DROPOUT_ENDINGS = ("dropout", "pdrop")  # names of model fields that do not change what weights mean
ALL, PORT, LORA = "all", "port", "lora"
PORT_PREFIX, MODEL_PREFIX = "port.", "model."  # of the names of a data layer's parameters
LORA_INFIX = ".lora_"  # in the names that peft gives to what it adds
LORA_ONLY = OnlyWith("data.layer.train", LORA)


def _words_or_patterns(value: object) -> object:
    """Raises: ValueError: neither one of the words nor a list of patterns."""
    if value in (ALL, PORT, LORA):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return value
    raise ValueError(
        "expected all, port, lora, or a list of patterns of parameter names such as "
        f"['model.layers.2[0-9].*', '*norm*'], got {value!r}"
    )


class LoraSpec(Spec):
    """Low-rank adapters of the data layer, by peft (tandem-memory[lora])."""

    r: Annotated[int, LORA_ONLY] = Field(
        8, ge=1, description="Rank of every adapter: more learn more, and are larger."
    )
    alpha: Annotated[float, LORA_ONLY] = Field(
        16.0, gt=0, description="An adapter's output is multiplied with alpha / r."
    )
    dropout: Annotated[float, LORA_ONLY] = Field(
        0.0, ge=0, lt=1, description="Share of an adapter's input that is dropped in training."
    )
    targets: Annotated[tuple[str, ...], LORA_ONLY] = Field(
        (),
        description="Modules that get an adapter, by the last part of their names, e.g. [q_proj, "
        "v_proj]; empty: every linear layer but the output matrix.",
    )
    export: Annotated[Literal["merged", "apart"], LORA_ONLY] = Field(
        "merged",
        description="`merged`: the exported data layer is a plain model with the adapters added to "
        "its weights. `apart`: it is the model that came in, and the adapters are a folder of peft "
        "beside it.",
    )


class DataLayerSpec(Spec):
    """A Hugging Face causal LM, its starting weights, and where its memory port reads."""

    pretrained: Annotated[str | None, PathTo.MODEL] = Field(
        None,
        min_length=1,
        description="Where the starting weights come from: a checkpoint folder (config.json and "
        "safetensors), a name on the Hugging Face hub such as Qwen/Qwen2.5-0.5B, or an earlier "
        "run's directory or export, whose memory port is then loaded too. Unset: fresh weights of "
        "`model_type` and `fields`. Set `tokenizer.pretrained` to match.",
    )
    model_type: str = Field(
        "llama",
        description="Hugging Face model type of fresh weights, e.g. llama, gpt2 or qwen3; ignored "
        "with `pretrained`, since a checkpoint names its own.",
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of that model's Hugging Face config, e.g. hidden_size; Tandem sets "
        "vocab_size. With `pretrained` only dropout probabilities, since every other field would "
        "change what the weights mean.",
    )
    allow_unexpected: bool = Field(
        False,
        description="Load `pretrained` although its files hold tensors that its config.json has no "
        "place for. By default the run is refused and the tensors are named, since a model without "
        "its biases or last layers is another model. Set it where you know that they are not "
        "needed, such as a vision tower or heads for speculative decoding.",
    )
    fresh_port: bool = Field(
        False,
        description="Start with a fresh memory port even where `pretrained` is an earlier run; "
        "needed where `read_layers` or `memory.layer.dim` differ from that run's.",
    )
    train: Annotated[
        Literal["all", "port", "lora"] | tuple[str, ...], BeforeValidator(_words_or_patterns)
    ] = Field(
        "all",
        description="What of the data layer trains, besides the memory port, which always does. "
        "`all`; `port`: nothing else, so the model keeps its bits; `lora`: adapters (`lora`); or a "
        "list of patterns of the model's parameter names, e.g. ['model.layers.2[0-9].*', "
        "'*norm*']. What does not train needs `pretrained`; it is loaded once per process, and is "
        "no part of snapshots, checkpoints and the optimizer's state.",
    )
    lora: LoraSpec = Field(default_factory=LoraSpec)
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format in which the model is held where `train` is `port` or `lora`; "
        "bfloat16 halves its memory, and rounds what was stored as float32. What trains is always "
        "float32.",
    )
    attention: Literal["auto", "sdpa", "eager", "packed"] = Field(
        "auto",
        description="Attention kernels; `auto` is sdpa where the model family has it, else eager, "
        "both with a mask of window by window that keeps packed documents apart. `packed`: each "
        "document by itself without a mask, by flash attention on GPUs in bf16, elsewhere "
        "documents of one length at a time; faster where windows are long and hold several "
        "documents.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute the activations inside decoder layers in the backward pass: about a "
        "third more compute, much less memory, the same gradients.",
    )
    compile: bool = Field(
        False,
        description="torch.compile of each decoder layer in training: the start takes minutes "
        "longer, steps are faster; worth it for long runs on GPUs.",
    )
    read_layers: Annotated[tuple[int, ...], Mark.FITTED] = Field(
        (1, 3),
        min_length=1,
        description="Decoder layers, counted from 0, after which the memory is read into the "
        "residual stream. More reads use the memory more and cost more compute.",
    )

    @model_validator(mode="after")
    def _layers_differ(self) -> Self:
        if len(set(self.read_layers)) != len(self.read_layers) or min(self.read_layers) < 0:
            raise ValueError(f"read_layers must be distinct and >= 0, got {list(self.read_layers)}")
        return self

    @model_validator(mode="after")
    def _what_stays_was_trained_before(self) -> Self:
        if self.keeps_some and self.pretrained is None:
            raise ValueError(
                f"train {self.train_in_words} needs `pretrained`: fresh weights that never train "
                "know nothing; give a checkpoint, or set train: all"
            )
        if self.dtype != "float32" and self.train not in (PORT, LORA):
            raise ValueError(
                f"dtype {self.dtype} is for what does not train, with train port or lora, got "
                f"train {self.train_in_words}; remove dtype, or set precision: bf16 of the group "
                "for faster passes over float32 weights"
            )
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

    @property
    def keeps_some(self) -> bool:
        """Whether some of the model does not train."""
        return self.train != ALL

    @property
    def keeps_model(self) -> bool:
        """Whether all of the model stays as it is: the port alone trains."""
        return self.train == PORT

    @property
    def has_adapters(self) -> bool:
        """Whether adapters train."""
        return self.train == LORA

    @property
    def exports_what_came_in(self) -> bool:
        """Whether the exported model is the one that came in, bit for bit."""
        return self.keeps_model or (self.has_adapters and self.lora.export == "apart")

    @property
    def train_in_words(self) -> str:
        """The value of `train`, for messages."""
        return self.train if isinstance(self.train, str) else str(list(self.train))

    def trains(self, name: str) -> bool:
        """Whether the data layer's parameter of that name trains."""
        if self.train == ALL or name.startswith(PORT_PREFIX):
            return True
        if isinstance(self.train, str):
            return self.train == LORA and LORA_INFIX in name
        plain = name.removeprefix(MODEL_PREFIX)
        return any(fnmatchcase(plain, pattern) for pattern in self.train)


class MemoryLayerSpec(Spec):
    """The token-addressed memory."""

    start_from: Annotated[str | None, PathTo.RUN] = Field(
        None,
        min_length=1,
        description="An earlier run's directory or export, whose memory layer's weights are the "
        "starting weights; all sizes must equal that run's. Unset: fresh weights.",
    )
    addresses: Literal["product_keys", "ngrams"] = Field(
        "product_keys",
        description="How tokens become addresses of slots. `product_keys`: what the encoder makes "
        "of the text is searched for the nearest keys, and both are trained. `ngrams`: the last "
        "one to `ngram_tokens` tokens are hashed, by every head in its own way; nothing is "
        "searched, so steps are cheaper, and other wordings of the same find nothing unless they "
        "end alike.",
    )
    ngram_tokens: Annotated[int, NGRAMS_ONLY] = Field(
        3,
        ge=1,
        le=8,
        description="Tokens of the longest n-gram; each length from 1 on reads a slot per head.",
    )
    encoder: Annotated[Literal["conv", "frozen_copy"], KEYS_ONLY] = Field(
        "conv",
        description="What turns tokens into addresses. `conv`: gated causal convolutions, trained "
        "with the memory. `frozen_copy`, for a pretrained data layer: a copy of its starting "
        "embedding and first layers, which is never trained.",
    )
    copy_layers: Annotated[int, COPY_ONLY] = Field(
        2, ge=1, description="Decoder layers copied from the data layer."
    )
    dim: Annotated[int, Mark.FITTED] = Field(
        128, ge=8, description="Width d_m of encoder, slots and read: the memory's main size."
    )
    slots_side: Annotated[int, Mark.FITTED] = Field(
        128,
        ge=4,
        description="n of the n*n slots. More slots store more and take more memory: n*n rows of "
        "`dim` numbers, and the optimizer's moments of them.",
    )
    heads: Annotated[int, Mark.FITTED] = Field(
        4, ge=1, description="Independent searches for slots per token."
    )
    topk: Annotated[int, KEYS_ONLY] = Field(
        32, ge=1, description="Slots read per head; more cost more time, at most `slots_side`."
    )
    key_dim: Annotated[int, Mark.ADVANCED, KEYS_ONLY] = Field(
        32, ge=4, description="Width of one half key (a slot's key is a product of two halves)."
    )
    gate: Annotated[bool, KEYS_ONLY] = Field(
        False,
        description="Multiply the read, element by element, with a gate computed from the tokens. "
        "Such a gate learns to answer by itself, so that little is stored in the slots.",
    )
    conv_dilations: Annotated[tuple[int, ...], Mark.ADVANCED, CONV_ONLY] = Field(
        (1, 2, 4),
        min_length=1,
        description="One gated causal convolution per entry, with that dilation.",
    )
    conv_taps: Annotated[int, Mark.ADVANCED, CONV_ONLY] = Field(
        4,
        ge=2,
        description="Taps of each convolution. Together they reach back the sum of "
        "dilation*(taps-1) tokens.",
    )
    attention_heads: Annotated[int, Mark.ADVANCED, CONV_ONLY] = Field(
        4,
        ge=0,
        description="Heads of the attention block before the last convolution; 0: no such block. "
        "It finds a subject anywhere in the sequence, so that other wordings lead to the same "
        "slots.",
    )
    tie_embeddings: Annotated[bool, CONV_ONLY] = Field(
        True,
        description="Use the encoder's token embeddings as output matrix too: fewer parameters. "
        "Those of a frozen copy can't be trained, so there the memory has an output matrix of its "
        "own.",
    )
    compile: bool = Field(
        False,
        description="torch.compile of the encoder's blocks in training: the start takes minutes "
        "longer, steps are faster; worth it for long runs on GPUs.",
    )

    @model_validator(mode="after")
    def _hashes_have_rows_and_no_encoder(self) -> Self:
        if not self.hashes:
            return self
        wrong = "gate true" if self.gate else ""
        wrong = "encoder frozen_copy" if self.encoder == "frozen_copy" else wrong
        if wrong:
            raise ValueError(
                f"addresses ngrams with {wrong}: there is no encoder; remove it, or set "
                "addresses: product_keys"
            )
        if (rows := self.num_slots // self.reads_per_key) < FEWEST_ROWS:
            raise ValueError(
                f"addresses ngrams: {self.num_slots} slots leave {rows} rows to each of "
                f"{self.ngram_tokens} orders in each of {self.heads} heads, expected at least "
                f"{FEWEST_ROWS}; raise slots_side, or lower heads or ngram_tokens"
            )
        return self

    @model_validator(mode="after")
    def _topk_fits(self) -> Self:
        if self.hashes:
            return self
        if self.topk > self.slots_side:
            raise ValueError(
                f"topk {self.topk} is more than slots_side {self.slots_side}; lower topk or add "
                "slots"
            )
        if self.attention_heads and self.dim % self.attention_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of attention_heads {self.attention_heads}; "
                "change one of them, or set attention_heads 0 for no attention"
            )
        return self

    @property
    def ties_output(self) -> bool:
        """Whether the encoder's embeddings are the output matrix."""
        return self.tie_embeddings and self.encoder == "conv" and not self.hashes

    @property
    def hashes(self) -> bool:
        """Whether addresses are hashes of n-grams."""
        return self.addresses == "ngrams"

    @property
    def reads_per_key(self) -> int:
        """Rows of the value table that a position reads."""
        return self.heads * (self.ngram_tokens if self.hashes else self.topk)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the layer computes; weights fit where these are equal."""
        of_others = {
            name
            for name, field in type(self).model_fields.items()
            if (where := only_with(field)) and not self._holds(where)
        }
        return self.model_dump(mode="json", exclude={"start_from", "compile", *of_others})

    def _holds(self, where: OnlyWith) -> bool:
        """Whether the other field has that value, and means something itself."""
        around = only_with(type(self).model_fields[where.key])
        return getattr(self, where.key) == where.value and (around is None or self._holds(around))

    @property
    def num_slots(self) -> int:
        """Rows of the value table."""
        return self.slots_side * self.slots_side
