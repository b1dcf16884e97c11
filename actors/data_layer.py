"""The data layer: a Hugging Face causal LM and the memory port that lets it read.

Nothing in the model is replaced. Forward hooks after chosen decoder layers add the memory's read to
the residual stream; without a read they return nothing, so the output is the plain model's, bit for
bit. Knows no memory layer: a read is a tensor. Called by the trainers, the evaluator and `pair`.

Shapes: B sequences, T tokens, D hidden size, M memory width d_m, V token ids.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.layer_spec import DataLayerSpec
from actors.memory_layer import rms
from actors.wire import ConfigError

GATE_BIAS_INIT = -2.0  # sigmoid(-2) = 0.12: the memory speaks softly until it has earned more


@dataclass(frozen=True)
class DataOutput:
    """Logits over the tokenizer's ids and the hidden state that they were made from."""

    logits_BTV: Tensor
    hidden_BTD: Tensor


class ReadGate(nn.Module):
    """h + alpha * W y, alpha = sigmoid(<rms(h), rms(K y)> / sqrt(D) + b), one alpha per token.

    W = 0 at the start.
    """

    def __init__(self, hidden_size: int, memory_dim: int) -> None:
        super().__init__()
        self.write = nn.Linear(memory_dim, hidden_size, bias=False)
        self.key = nn.Linear(memory_dim, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.full((), GATE_BIAS_INIT))
        nn.init.zeros_(self.write.weight)

    def forward(self, h_BTD: Tensor, y_BTM: Tensor) -> Tensor:
        """What is added to the residual stream, (B, T, D)."""
        match = (rms(h_BTD) * rms(self.key(y_BTM))).sum(-1, keepdim=True) / math.sqrt(
            h_BTD.shape[-1]
        )
        return torch.sigmoid(match + self.bias) * self.write(y_BTM)


class MemoryPort(nn.Module):
    """The part of theta that reads.

    One gate per read layer, and the mixing weight of the two distributions.
    """

    def __init__(self, hidden_size: int, memory_dim: int, read_layers: Sequence[int]) -> None:
        super().__init__()
        self.gates = nn.ModuleDict(
            {str(layer): ReadGate(hidden_size, memory_dim) for layer in read_layers}
        )
        self.mix = nn.Linear(hidden_size + memory_dim + 2, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.constant_(self.mix.bias, GATE_BIAS_INIT)

    def read_gates(self) -> Iterator[tuple[str, ReadGate]]:
        """Read layer and gate, in order."""
        for layer, gate in self.gates.items():
            assert isinstance(gate, ReadGate)
            yield layer, gate

    def mixing_logit(self, hidden: Tensor, y: Tensor, logp: Tensor, logq: Tensor) -> Tensor:
        """logit(lambda) (...) from the last hidden state, the read and the entropies of both
        distributions.

        Args:
            hidden: (..., D); y: (..., M); logp, logq: (..., V) log probabilities of data and memory
                layer.
        """
        with (
            torch.no_grad()
        ):  # as features only: lambda must not be a reason to sharpen or blur either distribution
            entropies = torch.stack([-(lp.exp() * lp).sum(-1) for lp in (logp, logq)], dim=-1)
        return self.mix(torch.cat([rms(hidden), rms(y), entropies], dim=-1)).squeeze(-1)


class DataLayer(nn.Module):
    """A causal LM with a memory port.

    Args:
        model: any Hugging Face causal LM.
        spec: where to read.
        memory_dim: width of a read.
        num_tokens: ids that the tokenizer has; output rows beyond it are masked by leaving them
            out.

    Raises:
        ConfigError: a read layer that does not exist, or more token ids than the model has rows.
    """

    def __init__(
        self, model: nn.Module, spec: DataLayerSpec, memory_dim: int, num_tokens: int
    ) -> None:
        super().__init__()
        self.model = model
        self.num_tokens = num_tokens
        if num_tokens > self.vocab_rows:
            raise ConfigError(
                f"the tokenizer has {num_tokens} ids, the model only {self.vocab_rows} output "
                "rows; "
                "use the model's own tokenizer or a model with more rows"
            )
        layers = decoder_layers(model)
        if (deepest := max(spec.read_layers)) >= len(layers):
            raise ConfigError(
                f"data.layer.read_layers: layer {deepest} does not exist; the model has layers 0 "
                f"to {len(layers) - 1}"
            )
        self.port = MemoryPort(int(model.config.hidden_size), memory_dim, spec.read_layers)  # type: ignore[union-attr,arg-type]
        self._read_BTM: Tensor | None = None
        self._hidden_BTD: Tensor | None = None
        for layer in spec.read_layers:
            layers[layer].register_forward_hook(self._make_read_hook(str(layer)))
        self._output_embeddings().register_forward_pre_hook(self._keep_hidden)

    def _output_embeddings(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[operator]
        return head

    @property
    def vocab_rows(self) -> int:
        """Rows of the output matrix."""
        weight = self._output_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]

    def _make_read_hook(self, layer: str) -> Any:
        def add_read(_module: nn.Module, _args: Any, output: Any) -> Any:
            y = self._read_BTM
            if y is None:
                return None
            h = output[0] if isinstance(output, tuple) else output
            reading = h[: y.shape[0]]
            added = self.port.gates[layer](reading, y).to(h.dtype)  # the port may be the wider one
            h = torch.cat([reading + added, h[y.shape[0] :]])
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return add_read

    def _keep_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden_BTD = args[0]

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor, y_BTM: Tensor | None = None, **kwargs: Any
    ) -> DataOutput:
        """One forward pass; the first rows of the batch read the memory, the others don't.

        Args:
            tokens_BT: token ids.
            segments_BT: document of each position in its window, -1 for padding; documents don't
                see each other.
            y_BTM: reads for the first `len(y_BTM)` sequences; None: reads off.
            kwargs: passed on to the model.
        """
        out, hidden_BTD = self.run_model(
            y_BTM,
            input_ids=tokens_BT,
            **packed_inputs(segments_BT, self.model.dtype),  # type: ignore[arg-type]
            use_cache=False,
            **kwargs,
        )
        return DataOutput(out.logits[..., : self.num_tokens], hidden_BTD)

    def run_model(self, y_BTM: Tensor | None, **inputs: Any) -> tuple[Any, Tensor]:
        """The model's own call and output, with the reads `y_BTM`, and the hidden state (B, T, D)
        that its logits were made from.

        Args:
            y_BTM: as in `forward`.
            inputs: the model's own arguments, a KV cache among them.
        """
        self._read_BTM = y_BTM
        try:
            out = self.model(**inputs)
        finally:
            self._read_BTM = None
        hidden, self._hidden_BTD = self._hidden_BTD, None
        assert hidden is not None
        return out, hidden


def packed_inputs(segments_BT: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Attention mask and positions that keep the documents of a window apart.

    Nothing where there is only one. The mask is additive: every attention implementation takes
    that, where eager attention would add a boolean one.
    """
    if bool((segments_BT == 0).all()):
        return {}
    tokens = segments_BT.shape[1]
    at_T = torch.arange(tokens, device=segments_BT.device)
    new_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    new_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    start_BT = torch.where(new_BT, at_T, 0).cummax(dim=1).values
    same_BTT = segments_BT.unsqueeze(2) == segments_BT.unsqueeze(1)
    mask_BTT = same_BTT & (at_T.unsqueeze(1) >= at_T)
    hidden = torch.zeros_like(mask_BTT, dtype=dtype)
    hidden.masked_fill_(~mask_BTT, torch.finfo(dtype).min)
    return {"attention_mask": hidden.unsqueeze(1), "position_ids": at_T - start_BT}


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The model's stack of decoder layers, wherever its family keeps it.

    Raises:
        ConfigError: there is no module list with one entry per hidden layer.
    """
    num_layers = getattr(model.config, "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if not stacks:
        raise ConfigError(
            f"{type(model).__name__}: found no stack of {num_layers} decoder layers to read the "
            "memory in"
        )
    return stacks[0]


def build_model(spec: DataLayerSpec, vocab_rows: int) -> nn.Module:
    """A Hugging Face causal LM with fresh weights from the global torch generator.

    Raises:
        ConfigError: an unknown model type or field, or a value that does not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM  # 4 s of import, for trainers only

    chosen = {**spec.fields, "vocab_size": vocab_rows}
    try:
        known = _known_fields(AutoConfig.for_model(spec.model_type))
        if unknown := sorted(set(spec.fields) - known):
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"data.layer.fields: {spec.model_type} has no field {unknown[0]}; "
                f"did you mean {near}?"
            )
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            chosen.setdefault(token, 0)
        config = AutoConfig.for_model(spec.model_type, **chosen)
        model: nn.Module = AutoModelForCausalLM.from_config(config)
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
        fields = ", ".join(f"{name}={value}" for name, value in chosen.items())
        raise ConfigError(f"data.layer: {spec.model_type} with {fields}: {err}") from err
    return model


def _known_fields(config: Any) -> set[str]:
    """Names that a model's config knows, aliases included; Hugging Face takes any other too."""
    return {*config.to_dict(), *vars(config), *getattr(config, "attribute_map", {})}


def mix_distributions(logp: Tensor, logq: Tensor, mixing_logit: Tensor) -> Tensor:
    """log of (1 - lambda) p + lambda q, (..., V), from log probabilities and logit(lambda)."""
    mixing_logit = mixing_logit.unsqueeze(-1)
    return torch.logaddexp(logp + F.logsigmoid(-mixing_logit), logq + F.logsigmoid(mixing_logit))
