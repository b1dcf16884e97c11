"""A data layer and its memory as one Hugging Face causal LM, whose `generate` works.

Three voices speak: `help`, the mixture of both layers (what was trained for), `own`, the data layer
alone, bit for bit the plain model, and `memory`, the memory alone. Trains and writes nothing.
Called by notebooks and scripts through `jobs.api`.

Shapes: B sequences, T tokens of this call, L of them whose logits are wanted, D memory width,
V output rows.
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
from actors.measuring.voices import VOICES, Voice, predict_voice_next
from actors.tokenizers.prompt import load_prompt_tokenizer
from actors.weights import pair_files

ANSWER_TOKENS = 24  # as many as `tandem ask` gives by default
# What the generation code asks of a model beyond what a module has: answered by the data layer's.
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
)


@dataclass
class TandemOutput(CausalLMOutputWithPast):  # type: ignore[misc]  # transformers is untyped here
    """A causal LM's output, and lambda.

    Attributes:
        logits: (B, L, V). `help` and `memory`: log probabilities, -inf beyond the tokenizer's ids;
            `own`: the plain model's logits.
        mixing: (B, L), the memory's share of the mixture; `help` only.
    """

    mixing: Tensor | None = None


class TandemModel(nn.Module, GenerationMixin):  # type: ignore[misc]
    """A language model with its memory, to be used like any causal LM of transformers.

    Args:
        pair: both layers.
        tokenizer: what is said to it and what it says, with padding on the left.
        special_ids: whether training read special tokens in a text as their ids, as `ask` then
            does; the tokenizer itself always does, so that its chat template works.

    Attributes:
        data_layer: the language model (`.model`) and its memory port (`.port`).
        memory_layer: encoder, addresses, value table.
        tokenizer: as given.
    """

    def __init__(
        self, pair: Pair, tokenizer: PreTrainedTokenizerFast, special_ids: bool = False
    ) -> None:
        super().__init__()
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
        """What the data layer reads the memory with."""
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
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.memory_layer.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the data layer's parameters."""
        found: torch.dtype = self.data_layer.model.dtype
        return found

    def to(self, *args: Any, **kwargs: Any) -> TandemModel:
        """Moves everything to a device; a dtype is for the data layer's model alone.

        Memory and port stay in float32: rounding an address would move a token to another slot.
        """
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            self.data_layer.model.to(dtype=dtype)
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
        """Who speaks where a call names no voice: `help`, `own` or `memory`."""
        return self._voice

    @voice.setter
    def voice(self, voice: Voice) -> None:
        self._voice = _known(voice)

    @contextmanager
    def speaking(self, voice: Voice) -> Iterator[TandemModel]:
        """`voice` speaks inside the `with` block."""
        before, self.voice = self.voice, voice
        try:
            yield self
        finally:
            self.voice = before

    def memory_off(self) -> Any:
        """Inside the `with` block the data layer speaks alone: bit for bit the plain model."""
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
        """What a causal LM of transformers takes and gives.

        Args:
            input_ids: (B, T); with a cache, the tokens that it has not seen.
            attention_mask: (B, tokens so far and these), 0 for padding, which may stand anywhere.
            position_ids: (B, T); default: counted over the mask's ones (`own`: the plain model's).
            past_key_values: a cache of transformers, empty or from an earlier call of this voice.
            labels: (B, T) as `input_ids`, -100 where nothing is to be learned; gives `loss`.
            use_cache: return a cache (default: as the config says).
            logits_to_keep: only the last so many positions, or these; 0: all.
            voice: default: the model's `voice`.
            return_dict: False: a tuple instead of a `TandemOutput`.
            kwargs: passed on to the data layer, e.g. output_hidden_states.

        Raises:
            ValueError: a voice that does not exist, a cache of another voice or of a kind that the
                memory can't follow, a mask that does not fit.
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
        )

    def _over_rows(self, logp: Tensor) -> Tensor:
        """Log probabilities of the tokenizer's ids over all V output rows, as the config counts."""
        missing = self.data_layer.vocab_rows - logp.shape[-1]
        return F.pad(logp, (0, missing), value=-torch.inf) if missing else logp

    def _cache(self, cache: Any, use_cache: bool | None) -> Any:
        """The caller's cache, a new one, or None."""
        model = self.data_layer.model
        has_own = "past_key_values" not in inspect.signature(model.forward).parameters
        if has_own and (cache is not None or use_cache):
            raise ValueError(
                f"{type(model).__name__} keeps its past in a cache of its own, which the memory "
                "can't follow: give use_cache=False"
            )
        wanted = getattr(self.config, "use_cache", True) if use_cache is None else use_cache
        return (
            DynamicCache(config=self.config) if cache is None and wanted and not has_own else cache
        )

    def generate(self, *args: Any, voice: Voice | None = None, **kwargs: Any) -> Any:
        """As of every causal LM of transformers; `voice` says who speaks (default: the model's)."""
        voice = self.voice if voice is None else _known(voice)
        if voice == "own":
            MemoryCache.refuse(kwargs.get("past_key_values"))
            return self.data_layer.generate(*args, **kwargs)
        return super().generate(*args, voice=voice, **kwargs)

    def ask(
        self, prompt: str | Sequence[str], voice: Voice | None = None, **kwargs: Any
    ) -> str | list[str]:
        """How `voice` goes on after the prompt, or after each prompt, as the start of a document.

        Greedy and up to 24 tokens, unless `kwargs`, which go to `generate`, say otherwise.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        asked = self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            split_special_tokens=not self._special_ids,
        ).to(self.device)
        options = {"do_sample": False, **kwargs}
        if "max_length" not in options:
            options.setdefault("max_new_tokens", ANSWER_TOKENS)
        said = self.generate(**asked, voice=voice, **options)
        new = said[:, asked["input_ids"].shape[1] :]
        texts = [t.strip() for t in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        return texts[0] if isinstance(prompt, str) and len(texts) == 1 else texts

    def save_pretrained(self, *_args: Any, **_kwargs: Any) -> None:
        """Raises: NotImplementedError, which says where a saved pair is."""
        raise NotImplementedError(
            "a pair is exported by its run: copy the run's export/ folder, which `load` takes. The "
            "data layer alone: model.data_layer.model.save_pretrained(folder) and "
            "model.tokenizer.save_pretrained(folder)"
        )


def load(directory: str) -> TandemModel:
    """The pair exported to `directory` (any fsspec URL), on the CPU, in eval mode.

    The data layer is as `from_pretrained` gives it, the memory needs no gradients.

    Raises:
        ConfigError: there is no finished export, or one of its files is missing or does not fit.
    """
    pair, tokenizer = pair_files.load(directory)
    # as `from_pretrained` leaves it: torch sums in another order where a weight needs no gradient
    pair.data.requires_grad_(True)
    prompts = load_prompt_tokenizer(directory, tokenizer)
    return TandemModel(pair, prompts, tokenizer.kept.as_ids).eval()


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
