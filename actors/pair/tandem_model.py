"""A data layer and its memory as one Hugging Face causal LM, whose `generate` works.

Predicts with one of three voices: `help`, the mixture of both layers (the one that was trained),
`own`, the data layer alone, bit for bit the plain model, and `memory`, the memory alone. Trains
nothing; what it is told (`Teller`) is kept apart from every weight.

Shapes: B sequences, T tokens of this call, L of them with logits, D memory width, V output rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

from actors.layers.data_layer import MemoryPort
from actors.layers.memory_cache import MemoryCache
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.measuring.voices import VOICES, Voice, predict_voice_next
from actors.operators.precision import cast_weights
from actors.pair.shared import Shared
from actors.pair.teller import Teller
from actors.sharing.folder import read_origin
from actors.tokenizers.prompt import load_prompt_tokenizer
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights import pair_export

ANSWER_TOKENS = 24  # as many as `tandem ask` prints by default
# The likeliest token at each step, whatever the model's generation config prefers.
GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
# Attributes that the generation code needs beyond those of a module; taken from the data layer.
FROM_DATA_LAYER = (
    "can_generate",
    "is_remote_code",
    "main_input_name",
    "base_model_prefix",
    "input_modalities",
    "get_input_embeddings",
    "get_output_embeddings",
    "get_experts_implementation",
    "set_experts_implementation",
    "_is_stateful",
    "tie_weights",
)


@dataclass
class TandemOutput(CausalLMOutputWithPast):  # type: ignore[misc]  # transformers is untyped here
    """A causal LM's output, with the mixture weight.

    Attributes:
        logits: (B, L, V). `help` and `memory`: log probabilities, -inf beyond the tokenizer's ids;
            `own`: the plain model's logits.
        mixing: (B, L), the memory's share of the mixture; `help` only.
        freshness: (B, L), how far what was told opened that share, in [0, 1]; `help` only, and
            None where nothing was told.
    """

    mixing: Tensor | None = None
    freshness: Tensor | None = None


class TandemModel(Teller, Shared, nn.Module, GenerationMixin):  # type: ignore[misc]
    """A language model with its memory, to be used like any causal LM of transformers.

    Args:
        pair: both layers.
        tokenizer: of prompts and answers, with padding on the left.
        special_ids: whether `ask` encodes special tokens in a prompt as their ids, as training did;
            the tokenizer itself always does, so that its chat template works.
        words: the run's own tokenizer, with which the memory is told; None: it can't be.

    Attributes:
        data_layer: the language model (`.model`) and its memory port (`.port`).
        memory_layer: encoder, addresses, value table.
        tokenizer: as given.
    """

    def __init__(
        self,
        pair: Pair,
        tokenizer: PreTrainedTokenizerFast,
        special_ids: bool = False,
        words: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.words = words
        self.longest = getattr(pair.data.model.config, "max_position_embeddings", None)
        self.data_layer = pair.data
        self.memory_layer = pair.memory
        self.tokenizer = tokenizer
        self._special_ids = special_ids
        self._voice: Voice = "help"

    def __getattr__(self, name: str) -> Any:
        if name in FROM_DATA_LAYER:
            return getattr(self.data_layer.model, name)
        return super().__getattr__(name)

    def __repr__(self) -> str:
        memory = self.memory_layer.spec
        return (
            f"TandemModel({type(self.data_layer.model).__name__} with "
            f"{_num_parameters(self.data_layer.model):,} parameters; memory of {memory.num_slots:,}"
            f" slots, d_m {memory.dim}, {_num_parameters(self.memory_layer):,} parameters, read "
            f"after layers {', '.join(self.memory_port.gates)}; voice {self.voice}, {self.device}, "
            f"{self.dtype})"
        )

    @property
    def memory_port(self) -> MemoryPort:
        """The port through which the data layer reads the memory."""
        return self.data_layer.port

    @property
    def config(self) -> Any:
        """The data layer's Hugging Face config."""
        return self.data_layer.model.config

    @property
    def generation_config(self) -> Any:
        """The data layer's generation config: what ends an answer, and defaults of `generate`."""
        return self.data_layer.model.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self.data_layer.model.generation_config = value

    @property
    def ends(self) -> set[int]:
        """Tokens that end what is said: those of the generation config and of the tokenizer, and
        the run's own mark, which the model's files may not name.
        """
        named = self.generation_config.eos_token_id
        found = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id}
        found |= {self.tokenizer.pad_token_id}
        found |= set(() if self.words is None else self.words.closing)
        return {token for token in found if token is not None}

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.memory_layer.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the data layer's parameters."""
        found: torch.dtype = self.data_layer.model.dtype
        return found

    def to(self, *args: Any, **kwargs: Any) -> TandemModel:
        """Moves everything to a device; a dtype applies to the data layer's model only.

        Memory and port stay in float32: rounding an address would move a token to another slot.
        """
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            cast_weights(self.data_layer.model, dtype)
        moved: TandemModel = super().to(device=device, non_blocking=non_blocking)
        return moved

    def half(self) -> TandemModel:
        """As `to(torch.float16)`."""
        return self.to(torch.float16)

    def bfloat16(self) -> TandemModel:
        """As `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    @property
    def voice(self) -> Voice:
        """Voice of calls that name none: `help`, `own` or `memory`."""
        return self._voice

    @voice.setter
    def voice(self, voice: Voice) -> None:
        self._voice = _known(voice)

    @contextmanager
    def speaking(self, voice: Voice) -> Iterator[TandemModel]:
        """Makes `voice` the default inside the `with` block."""
        before, self.voice = self.voice, voice
        try:
            yield self
        finally:
            self.voice = before

    def memory_off(self) -> Any:
        """Inside the `with` block, predicts with the data layer alone: the plain model's bits."""
        return self.speaking("own")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        voice: Voice | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `forward` of any causal LM of transformers.

        Args:
            input_ids: (B, T); with a cache, the tokens that it has not seen.
            attention_mask: (B, tokens so far and these), 0 for padding, which may be anywhere.
            position_ids: (B, T); default: counted over the mask's ones (`own`: the plain model's).
            past_key_values: a cache of transformers, empty or from an earlier call of this voice.
            labels: (B, T) as `input_ids`, -100 for positions without a target; gives `loss`.
            use_cache: return a cache (default: of the config).
            logits_to_keep: number of last positions with logits, or their indices; 0: all.
            voice: default: the model's `voice`.
            return_dict: False: a tuple instead of a `TandemOutput`.
            kwargs: passed on to the data layer, e.g. output_hidden_states.

        Raises:
            ValueError: unknown voice, a cache of another voice or of a kind that the memory does
                not support, or a mask of another shape.
        """
        voice = self.voice if voice is None else _known(voice)
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("the memory reads tokens: give input_ids instead of inputs_embeds")
        if voice == "own":
            MemoryCache.refuse(past_key_values)
            if labels is not None:
                kwargs["labels"] = labels
            if self.data_layer.keeps_logits:
                kwargs["logits_to_keep"] = logits_to_keep
            plain = self.data_layer.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
            out = TandemOutput(
                loss=plain.loss,
                logits=plain.logits,
                past_key_values=getattr(plain, "past_key_values", None),
                hidden_states=plain.hidden_states,
                attentions=plain.attentions,
            )
        else:
            out = self._with_memory(
                voice,
                input_ids,
                attention_mask,
                position_ids,
                self._cache(past_key_values, use_cache),
                logits_to_keep,
                kwargs,
            )
            if use_cache is False:
                out.past_key_values = None
            if labels is not None:
                out.loss = self.data_layer.model.loss_function(
                    logits=out.logits, labels=labels, vocab_size=out.logits.shape[-1], **kwargs
                )
        return out.to_tuple() if return_dict is False else out

    def _with_memory(
        self,
        voice: Voice,
        input_ids_BT: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Any,
        logits_to_keep: int | Tensor,
        kwargs: dict[str, Any],
    ) -> TandemOutput:
        past = MemoryCache.of(cache, voice).get_seq_length()
        attention_mask = _checked(attention_mask, past, input_ids_BT)
        said, plain = predict_voice_next(
            Pair(self.data_layer, self.memory_layer),
            voice,
            input_ids_BT,
            attention_mask,
            cache,
            logits_to_keep,
            position_ids,
            **kwargs,
        )
        return TandemOutput(
            logits=self._over_rows(said.logp),
            past_key_values=cache,
            hidden_states=None if plain is None else plain.hidden_states,
            attentions=None if plain is None else plain.attentions,
            mixing=said.mixing,
            freshness=said.freshness,
        )

    def _over_rows(self, logp: Tensor) -> Tensor:
        """Log probabilities of the tokenizer's ids, padded to all V output rows of the config."""
        missing = self.data_layer.vocab_rows - logp.shape[-1]
        return F.pad(logp, (0, missing), value=-torch.inf) if missing else logp

    def _cache(self, cache: Any, use_cache: bool | None) -> Any:
        """The caller's cache, a new one, or None."""
        model = self.data_layer.model
        has_own = "past_key_values" not in inspect.signature(model.forward).parameters
        if has_own and (cache is not None or use_cache):
            raise ValueError(
                f"{type(model).__name__} has a cache of its own kind, which the memory does not "
                "support; give use_cache=False"
            )
        wanted = getattr(self.config, "use_cache", True) if use_cache is None else use_cache
        return (
            DynamicCache(config=self.config) if cache is None and wanted and not has_own else cache
        )

    def generate(self, *args: Any, voice: Voice | None = None, **kwargs: Any) -> Any:
        """As `generate` of any causal LM of transformers, with `voice` (default: the model's).

        `help` and `memory` end at `ends` too, `own` where the plain model does.
        """
        voice = self.voice if voice is None else _known(voice)
        if voice == "own":
            MemoryCache.refuse(kwargs.get("past_key_values"))
            return self.data_layer.generate(*args, **kwargs)
        if self.words is not None and kwargs.get("generation_config") is None:
            kwargs.setdefault("eos_token_id", sorted(self.ends) or None)
        return super().generate(*args, voice=voice, **kwargs)

    def prompt_inputs(self, prompts: list[str]) -> Any:
        """Token ids and mask of prompts, each the start of a document, on the model's device."""
        return self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            split_special_tokens=not self._special_ids,
        ).to(self.device)

    def ask(
        self, prompt: str | Sequence[str], voice: Voice | None = None, **kwargs: Any
    ) -> str | list[str]:
        """The continuation by `voice` of the prompt, or of each prompt, as the start of a document.

        Greedy and up to 24 tokens, unless `kwargs`, which are passed to `generate`, differ.
        """
        asked = self.prompt_inputs([prompt] if isinstance(prompt, str) else list(prompt))
        options = {**GREEDY, "eos_token_id": sorted(self.ends) or None, **kwargs}
        if "max_length" not in options:
            options.setdefault("max_new_tokens", ANSWER_TOKENS)
        said = self.generate(**asked, voice=voice, **options)
        new = said[:, asked["input_ids"].shape[1] :]
        texts = [t.strip() for t in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        return texts[0] if isinstance(prompt, str) and len(texts) == 1 else texts


def load_tandem_model(directory: str, progress: Progress = unseen) -> TandemModel:
    """The pair exported to `directory` (any fsspec URL), on the CPU, in eval mode; `progress` as
    `load_pair` has it.

    The data layer is as `from_pretrained` returns it; the memory's parameters need no gradients.

    Raises:
        ConfigError: there is no finished export, or one of its files is missing or does not fit.
    """
    pair, tokenizer = pair_export.load_pair(directory, progress)
    # as `from_pretrained` leaves it: torch sums in another order where a weight needs no gradient
    pair.data.requires_grad_(True)
    prompts = load_prompt_tokenizer(directory, tokenizer)
    model = TandemModel(pair, prompts, tokenizer.extras.as_ids, tokenizer).eval()
    model.origin = read_origin(directory) or None
    return model


def _known(voice: str) -> Voice:
    if voice not in VOICES:
        raise ValueError(f"unknown voice {voice!r}: expected one of {', '.join(VOICES)}")
    return voice


def _checked(mask: Tensor | None, past: int, input_ids_BT: Tensor) -> Tensor | None:
    want = (input_ids_BT.shape[0], past + input_ids_BT.shape[1])
    if mask is not None and tuple(mask.shape) != want:
        raise ValueError(
            f"attention_mask: expected (sequences, tokens so far and new) = {want}, got "
            f"{tuple(mask.shape)}"
        )
    return mask


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
