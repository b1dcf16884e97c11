"""Hugging Face causal LMs: fresh ones from a config, their first layers, how they make logits, and
checks whether a model can be a data layer.

Every fresh model is in float32. Knows no files (`weights` does) and no memory. transformers is
imported inside functions: its 4 s are spent by trainers alone.

Shapes: B sequences, T tokens, N positions, V token ids, R output rows, D hidden size.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from actors.operators.packed_attention import (
    INSTEAD,
    PACKED,
    Documents,
    has_kernel,
    kernels,
    why_not_packed,
)
from actors.operators.parts import linear
from actors.operators.precision import widen
from actors.settings.layers import DataLayerSpec
from actors.wire import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LEAK = 1e-4  # of the largest logit: more than rounding, less than any dependence
LEAK_HALF = 5e-2  # the same of a model in bfloat16
PROBE_TOKENS = 8
MASKED = "use a family whose attention takes a mask, such as llama, qwen3 or gpt2"


class OutputHead:
    """Makes logits of any hidden states of a model, as the model does, and differentiably.

    Args:
        model: the causal LM.
        num_tokens: ids that the tokenizer has, R or fewer.
        own_code: the model's own logits (N, R) of hidden states (N, D), computed by all of its
            code: some families cap or scale what the output matrix gives.
    """

    def __init__(
        self, model: PreTrainedModel, num_tokens: int, own_code: Callable[[Tensor], Tensor]
    ) -> None:
        self._model, self._num_tokens, self._own_code = model, num_tokens, own_code
        self._ends_with_matrix: bool | None = None

    def logits(self, hidden_ND: Tensor, into_grad: bool) -> tuple[Tensor, Tensor | None]:
        """Logits (N, V) of the tokenizer's ids, and `beyond` of those of all rows.

        Args:
            hidden_ND: hidden states.
            into_grad: as in `predicted.linear`, of the output matrix, where that is all there is.
        """
        tokens, others = slice(self._num_tokens), slice(self._num_tokens, None)
        matrix = output_embeddings(self._model)
        if not self._is_all():
            logits_NR = self._own_code(hidden_ND)
        elif type(matrix) is not nn.Linear or matrix.bias is not None:
            logits_NR = matrix(hidden_ND)
        else:
            logits_NV = linear(hidden_ND, matrix.weight, tokens, into_grad)
            if not self._lowers_others():
                return logits_NV, None
            others_NU = linear(hidden_ND, matrix.weight, others, into_grad)
            return logits_NV, widen(others_NU).logsumexp(-1)
        return logits_NR[:, tokens], self.beyond(logits_NR)

    def beyond(self, logits: Tensor) -> Tensor | None:
        """logsumexp (...) of the logits (..., R) of output rows that are no token; None where there
        are none, or no backward pass will lower them.
        """
        if not self._lowers_others():
            return None
        return widen(logits[..., self._num_tokens :]).logsumexp(-1)

    def _lowers_others(self) -> bool:
        """Whether there are other rows and a backward pass will change the model, be it with this
        matrix as it is.
        """
        others = self._num_tokens < output_matrix(self._model).shape[0]
        trained = others and any(p.requires_grad for p in self._model.parameters())
        return trained and torch.is_grad_enabled()

    @torch.no_grad()
    def _is_all(self) -> bool:
        """Whether the model's logits are what its output matrix gives; found out once."""
        if self._ends_with_matrix is None:
            weight = output_matrix(self._model)
            at_2D = torch.arange(2 * weight.shape[1], device=weight.device).view(2, -1)
            hidden_2D = 3 * at_2D.cos().to(weight.dtype)
            by_matrix_2R = output_embeddings(self._model)(hidden_2D)
            self._ends_with_matrix = torch.equal(self._own_code(hidden_2D), by_matrix_2R)
        return self._ends_with_matrix


def output_embeddings(model: PreTrainedModel) -> nn.Module:
    """The module that makes logits of the last hidden state.

    Raises:
        ConfigError: there is none, as in base models.
    """
    head: nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{type(model).__name__} has no output matrix, so it is no causal LM")
    return head


def output_matrix(model: PreTrainedModel) -> Tensor:
    """The model's output matrix, (rows, D). Raises: ConfigError as `output_embeddings`."""
    weight = output_embeddings(model).weight
    assert isinstance(weight, Tensor)
    return weight


def packed_inputs(
    segments_BT: Tensor,
    dtype: torch.dtype = torch.float32,
    past_BR: Tensor | None = None,
    one_document: bool | None = None,
) -> dict[str, Tensor]:
    """Attention mask and positions that keep the documents of a window apart.

    Nothing where there is only one. The mask is additive: every attention implementation takes
    that, where eager attention would add a boolean one.

    Args:
        segments_BT: document of each position.
        dtype: of the mask; what attention computes in.
        past_BR: documents of the positions before, when their keys and values are in a cache.
        one_document: whether all of that is one document in each window, all segments 0; None:
            finds out, for which a GPU is waited for.
    """
    every_BS = segments_BT if past_BR is None else torch.cat([past_BR, segments_BT], dim=1)
    if one_document is None:
        one_document = bool((every_BS == 0).all())
    if one_document:
        return {}
    past = every_BS.shape[1] - segments_BT.shape[1]
    mask_BTS = (segments_BT.unsqueeze(2) == every_BS.unsqueeze(1)).tril_(past)
    positions_BT = mask_BTS.sum(-1).sub_(1)
    hidden = mask_BTS.logical_not_().to(dtype).mul_(torch.finfo(dtype).min)
    return {"attention_mask": hidden.unsqueeze(1), "position_ids": positions_BT}


def window_inputs(
    model: PreTrainedModel,
    segments_BT: Tensor,
    dtype: torch.dtype,
    documents: Documents | None = None,
) -> dict[str, Tensor]:
    """What keeps the documents of windows apart in a model, by its attention: `packed_inputs`, or
    where documents begin.

    Args:
        model: with the attention that `kernels` says.
        segments_BT: document of each position.
        dtype: what attention computes in.
        documents: the same in host memory; None: a GPU is waited for.
    """
    documents = documents or Documents.of(segments_BT)
    if documents.one:
        return {}
    device = segments_BT.device
    packs = model.config._attn_implementation == PACKED
    if packs and (device.type == "cpu" or has_kernel(device, dtype)) and documents.are_whole:
        return documents.inputs(device)
    return packed_inputs(segments_BT, dtype, one_document=False)


def build_model(spec: DataLayerSpec, vocab_rows: int) -> PreTrainedModel:
    """A causal LM with fresh weights from the global torch generator.

    Raises:
        ConfigError: an unknown model type or field, a value that does not fit, no causal LM.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = fresh_config(spec, vocab_rows)
        return model_of(config, spec.attention)
    except ConfigError:
        raise
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        ZeroDivisionError,
    ) as err:
        fields = {**spec.fields, "vocab_size": vocab_rows}
        chosen = ", ".join(f"{name}={value}" for name, value in fields.items())
        why = why_not_packed(err) or str(err)
        raise ConfigError(f"data.layer: {spec.model_type} with {chosen}: {why}") from err


def fresh_config(spec: DataLayerSpec, vocab_rows: int) -> PreTrainedConfig:
    """The Hugging Face config of a fresh model. Raises: as `build_model`, and what it catches."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if spec.model_type not in CONFIG_MAPPING:
        [near] = difflib.get_close_matches(spec.model_type, CONFIG_MAPPING, n=1, cutoff=0.0)
        raise ConfigError(
            f"data.layer.model_type: no type {spec.model_type!r} is known; did you mean {near}?"
        )
    check_fields(spec, AutoConfig.for_model(spec.model_type))
    chosen = {**spec.fields, "vocab_size": vocab_rows}
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        chosen.setdefault(token, 0)
    config = AutoConfig.for_model(spec.model_type, **chosen)
    check_decoder(config, f"data.layer.model_type {spec.model_type}")
    return config


def model_of(config: PreTrainedConfig, attention: str = "auto") -> PreTrainedModel:
    """A causal LM of that config with fresh weights, of the padding token too, which marks
    documents.
    """
    from transformers import AutoModelForCausalLM

    padded = copy.deepcopy(config)
    padded.pad_token_id = None  # or transformers makes the mark's row 0, and leaves it there
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        padded, dtype=torch.float32, attn_implementation=kernels(attention)
    )
    for kept in (model.config, model.generation_config):
        kept.pad_token_id = config.pad_token_id
    return model


def learn_every_row(model: PreTrainedModel) -> None:
    """Lets the embedding of the padding token learn too: padding has a segment of its own here, and
    a text may be marked with that token.
    """
    embeddings = model.get_input_embeddings()
    if getattr(embeddings, "padding_idx", None) is not None:
        embeddings.padding_idx = None


def tell_ties(model: PreTrainedModel) -> None:
    """Sets the config's `tie_word_embeddings` to what is true: a checkpoint may say that embedding
    and head are one tensor and hold a head of its own, which transformers then keeps apart.
    """
    embedding = model.get_input_embeddings().weight
    tied = output_matrix(model) is embedding
    config: PreTrainedConfig = model.config
    for part in (config, config.get_text_config()):
        if bool(getattr(part, "tie_word_embeddings", tied)) != tied:
            part.tie_word_embeddings = tied


def front_config(config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
    """The config of a model's first layers alone.

    Raises:
        ConfigError: more layers than the model has, or a config of several models.
    """
    whole = getattr(config, "num_hidden_layers", None)
    if whole is None:
        raise ConfigError(
            f"memory.layer.encoder: frozen_copy can't copy layers of {config.model_type}, whose "
            "config names no decoder layers of its own; use memory.layer.encoder: conv"
        )
    if num_layers > whole:
        raise ConfigError(
            f"memory.layer.copy_layers {num_layers}: the data layer has only {whole} decoder layers"
        )
    front = copy.deepcopy(config)
    for name, value in vars(config).items():  # layer_types and the like, one entry per layer
        if "layer" in name and isinstance(value, list) and len(value) == whole:
            setattr(front, name, value[:num_layers])
    front.num_hidden_layers = num_layers
    return front


def front_of(described: dict[str, Any]) -> PreTrainedModel:
    """First layers of a model, by a config as `to_dict` gives it; weights are to be loaded."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**described)
    model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    return model


@torch.no_grad()
def check_model(model: PreTrainedModel, name: str) -> None:
    """Runs eight tokens of two documents through the model.

    Raises:
        ConfigError: a position sees a later one (an encoder), or a document sees the one before it
            (a recurrent model, or one with a mask or positions of its own): every loss would be
            measured on text that had been seen.
    """
    training = model.training
    advice = INSTEAD if model.config._attn_implementation == PACKED else MASKED
    model.eval()
    rows = output_matrix(model).shape[0]
    ids_BT = torch.arange(PROBE_TOKENS)[None] % rows
    changed_BT = ids_BT.clone()
    changed_BT[0, -1] = (PROBE_TOKENS + 1) % rows
    half = PROBE_TOKENS // 2
    segments_BT = torch.arange(PROBE_TOKENS)[None] // half

    def logits(tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        inputs = window_inputs(model, segments_BT, model.dtype)
        out: Tensor = model(input_ids=tokens_BT, **inputs, use_cache=False).logits
        return out

    try:
        packed = logits(ids_BT, segments_BT)
        later = logits(changed_BT, segments_BT)
        alone = logits(ids_BT[:, half:], segments_BT[:, half:] - 1)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as err:
        raise ConfigError(
            f"{name}: the model can't take windows of packed documents ({err}); {advice}"
        ) from err
    finally:
        model.train(training)
    if _differ(packed[:, :-1], later[:, :-1]):
        raise ConfigError(
            f"{name}: a position's logits depend on later tokens, so this is no causal LM; use a "
            "decoder model"
        )
    if _differ(packed[:, half:], alone):
        raise ConfigError(
            f"{name}: a document's logits depend on the document before it in a packed window; "
            f"{advice}"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    leak = LEAK if one.dtype == torch.float32 else LEAK_HALF
    return bool((one - other).abs().max() > leak * one.abs().max())


@contextmanager
def quietly() -> Iterator[None]:
    """Transformers without progress bars, and without a table of what a front leaves out."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_decoder(config: PreTrainedConfig, name: str) -> None:
    """Raises: ConfigError for encoders and encoder-decoders, before their weights are read."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if (
        kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or encoder
        or getattr(config, "is_encoder_decoder", False)
    ):
        raise ConfigError(
            f"{name}: not a causal LM but an encoder or another kind of model; expected a decoder "
            "that predicts the next token, such as llama, qwen3 or gpt2"
        )


def check_fields(spec: DataLayerSpec, config: PreTrainedConfig) -> None:
    """Raises: ConfigError for a field that this kind of config does not know."""
    known = _known_fields(config)
    if unknown := sorted(set(spec.fields) - known):
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"data.layer.fields: {config.model_type} has no field {unknown[0]}; "
            f"did you mean {near}?"
        )


def _known_fields(config: PreTrainedConfig) -> set[str]:
    """Names that a model's config knows, aliases included; Hugging Face takes any other too."""
    return {*config.to_dict(), *vars(config), *getattr(config, "attribute_map", {})}
