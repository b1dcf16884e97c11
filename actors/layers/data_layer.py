"""The data layer: a Hugging Face causal LM and the memory port through which it reads.

Nothing in the model is replaced. Forward hooks after chosen decoder layers add the memory's read to
the residual stream; without a read they return nothing, so the output is the plain model's, bit for
bit. Knows no memory layer: a read is a tensor.

Shapes: B sequences, T tokens, D hidden size, M memory width d_m, V token ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.layers.causal_lm import OutputHead, window_inputs
from actors.layers.causal_lm import output_embeddings as output_embeddings
from actors.layers.causal_lm import output_matrix as output_matrix
from actors.layers.causal_lm import packed_inputs as packed_inputs
from actors.layers.memory_layer import rms
from actors.layers.predicted import entropy
from actors.operators.front import Front
from actors.operators.packed_attention import Documents
from actors.operators.parts import positions_at_once
from actors.operators.precision import compute_dtype, in_float32, widen
from actors.settings.layers import DataLayerSpec
from actors.wire import ConfigError

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

GATE_BIAS_INIT = -2.0  # sigmoid(-2) = 0.12: the memory counts little until training raises it


@dataclass(frozen=True)
class DataOutput:
    """Logits over the tokenizer's ids and the hidden state that they were made from.

    Attributes:
        beyond_BT: logsumexp of the logits of the output rows beyond the tokenizer's ids; None where
            there are none, or they are not trained.
    """

    logits_BTV: Tensor
    hidden_BTD: Tensor
    beyond_BT: Tensor | None = None


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

    def mixing_logit(
        self, hidden: Tensor, y: Tensor, logp: Tensor, logq: Tensor, fixed: bool = False
    ) -> Tensor:
        """logit(lambda) (...) from the last hidden state, the read and the entropies of both
        distributions.

        Args:
            hidden: (..., D); y: (..., M); logp, logq: (..., V) log probabilities of data and memory
                layer.
            fixed: the weights of lambda get no gradient.
        """
        with (
            torch.no_grad()
        ):  # as features only: lambda must not be a reason to sharpen or blur either distribution
            entropies = torch.stack([entropy(lp) for lp in (logp, logq)], dim=-1)
        return self.mixing_logit_of(hidden, y, entropies, fixed)

    def mixing_logit_of(
        self, hidden: Tensor, y: Tensor, entropies: Tensor, fixed: bool = False
    ) -> Tensor:
        """`mixing_logit` from the entropies of data and memory layer, (..., 2)."""
        features = torch.cat([rms(widen(hidden)), rms(widen(y)), entropies], dim=-1)
        with in_float32(hidden.device):  # one column: nothing to save, and lambda is a loss's base
            weight, bias = (p.detach() if fixed else p for p in (self.mix.weight, self.mix.bias))
            return F.linear(features, weight, bias).squeeze(-1)


class DataLayer(nn.Module):
    """A causal LM with a memory port.

    Args:
        model: any Hugging Face causal LM.
        spec: where to read.
        memory_dim: width of a read.
        num_tokens: ids that the tokenizer has. Output rows beyond it are left out of measurements,
            mixture and teachers; training lowers them all the same (`losses.beyond_tokens`), since
            an exported model predicts with all its rows.
        logit_tokens: as `RunSpec.logit_tokens`.

    Raises:
        ConfigError: a read layer that does not exist, or more token ids than the model has rows.
    """

    base = ""  # identity of the model's weights where some don't train; set by who loaded them

    def __init__(
        self,
        model: PreTrainedModel,
        spec: DataLayerSpec,
        memory_dim: int,
        num_tokens: int,
        logit_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.num_tokens, self.logit_tokens = num_tokens, logit_tokens
        if num_tokens > self.vocab_rows:
            raise ConfigError(
                f"the tokenizer has {num_tokens} ids, the model only {self.vocab_rows} output "
                "rows; use the model's own tokenizer (tokenizer.pretrained) or a model with more "
                "rows"
            )
        layers = decoder_layers(model)
        if (deepest := max(spec.read_layers)) >= len(layers):
            raise ConfigError(
                f"data.layer.read_layers: layer {deepest} does not exist; the model has layers 0 "
                f"to {len(layers) - 1}"
            )
        hidden_size = int(model.config.get_text_config().hidden_size)
        if hidden_size != output_matrix(model).shape[1]:
            raise ConfigError(
                f"{type(model).__name__}: its hidden state is {hidden_size} wide, its output "
                f"matrix {output_matrix(model).shape[1]}; use a model where they are the same"
            )
        self.port = MemoryPort(hidden_size, memory_dim, spec.read_layers)
        self._read_BTM: Tensor | None = None
        self._hidden_BTD: Tensor | None = None
        self._no_logits = False  # the hidden states are all that is wanted
        self._instead_1ND: Tensor | None = None  # hidden states that logits are made of instead
        self._head = OutputHead(model, num_tokens, self._own_logits)
        self._front = Front([*layers][: min(spec.read_layers) + 1])
        for layer in spec.read_layers:
            layers[layer].register_forward_hook(self._make_read_hook(str(layer)))
        output_embeddings(model).register_forward_pre_hook(self._keep_hidden)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states of which logits are made."""
        return output_matrix(self.model).shape[1]

    @property
    def vocab_rows(self) -> int:
        """Rows of the output matrix."""
        return output_matrix(self.model).shape[0]

    def train(self, mode: bool = True) -> DataLayer:
        """Never puts a model that keeps its bits in training: dropout is for what learns."""
        super().train(mode)
        if self.spec.keeps_model:
            self.model.eval()
        return self

    def _make_read_hook(self, layer: str) -> Callable[[nn.Module, Any, Any], Any]:
        def add_read(_module: nn.Module, _args: Any, output: Any) -> Any:
            y = self._read_BTM
            if y is None:
                return None
            h = output[0] if isinstance(output, tuple) else output
            reading = h[: y.shape[0]]
            # the port may be the wider one, and on another device than the layer
            added = self.port.gates[layer](reading.to(y.device), y).to(h)
            h = torch.cat([reading + added, h[y.shape[0] :]])
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return add_read

    def _keep_hidden(
        self, _module: nn.Module, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...] | None:
        self._hidden_BTD = args[0]
        if self._instead_1ND is not None:
            return self._instead_1ND, *args[1:]
        return (args[0][:1, :0], *args[1:]) if self._no_logits else None

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        y_BTM: Tensor | None = None,
        documents: Documents | None = None,
        **kwargs: Any,
    ) -> DataOutput:
        """One forward pass; the first rows of the batch read the memory, the others don't.

        Args:
            tokens_BT: token ids.
            segments_BT: document of each position in its window, -1 for padding; documents don't
                see each other.
            y_BTM: reads for the first `len(y_BTM)` sequences; None: reads off.
            documents: as in `window_inputs`.
            kwargs: passed on to the model.
        """
        dtype = compute_dtype(tokens_BT.device, self.model.dtype)
        out, hidden_BTD = self.run_model(
            y_BTM,
            input_ids=tokens_BT,
            **window_inputs(self.model, segments_BT, dtype, documents),
            use_cache=False,
            **kwargs,
        )
        logits_BTV = out.logits[..., : self.num_tokens]
        return DataOutput(logits_BTV, hidden_BTD, self._head.beyond(out.logits))

    def hidden(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        y_BTM: Tensor | None = None,
        documents: Documents | None = None,
        front_BTD: Tensor | None = None,
    ) -> Tensor:
        """The hidden states (B, T, D) of which `forward` makes logits, without the logits.

        Args:
            tokens_BT, segments_BT, y_BTM, documents: as of `forward`.
            front_BTD: what `hidden_and_front` gave of the same tokens; None: it is computed.
        """

        def run() -> Tensor:
            self._no_logits = True
            try:
                return self(tokens_BT, segments_BT, y_BTM, documents).hidden_BTD
            finally:
                self._no_logits = False

        return run() if front_BTD is None else self._front.given(front_BTD, run)

    def hidden_and_front(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        y_BTM: Tensor | None = None,
        documents: Documents | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`hidden`, and what the layers up to the first that reads gave before the read, from which
        a pass with other reads can go on; None: this model's code can't.
        """
        return self._front.kept(lambda: self.hidden(tokens_BT, segments_BT, y_BTM, documents))

    @property
    def positions_at_once(self) -> int:
        """Positions whose logits are made at a time."""
        return positions_at_once(self.num_tokens, self.port.mix.weight.device, self.logit_tokens)

    def logits_at(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) of some of the positions of `hidden`, as `forward` makes them."""
        return self.outputs_at(hidden_ND)[0]

    def outputs_at(
        self, hidden_ND: Tensor, into_grad: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (N, V) of some of the positions of `hidden`, and their `DataOutput.beyond_BT`
        (N,), as `forward` makes them; `into_grad` as in `OutputHead.logits`.
        """
        made = self._head.logits(hidden_ND, into_grad)
        self._hidden_BTD = None  # the output matrix' hook has kept them
        return made

    def _own_logits(self, hidden_ND: Tensor) -> Tensor:
        """By the model's own code, which is called with a single token."""
        self._instead_1ND = hidden_ND.unsqueeze(0)
        token = torch.zeros(1, 1, dtype=torch.long, device=hidden_ND.device)
        try:
            out, _ = self.run_model(None, input_ids=token, use_cache=False)
        finally:
            self._instead_1ND = None
        logits_NR: Tensor = out.logits[0]
        return logits_NR

    def new_cache(self) -> DynamicCache:
        """An empty cache of keys and values for this model."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @property
    def keeps_logits(self) -> bool:
        """Whether the model can make logits of the last positions alone."""
        return bool(self.model._supports_logits_to_keep())

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
        return out, hidden.to(out.logits.device)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own `generate`, reads off; output rows that are no token are never chosen.

        Args:
            args, kwargs: as of every causal LM of transformers.
        """
        if self.num_tokens < self.vocab_rows:
            from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

            beyond = list(range(self.num_tokens, self.vocab_rows))
            silence = SuppressTokensLogitsProcessor(beyond, device=self.port.mix.weight.device)
            given = kwargs.get("logits_processor") or []
            kwargs["logits_processor"] = LogitsProcessorList([*given, silence])
        return self.model.generate(*args, **kwargs)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's stack of decoder layers, wherever its family keeps it.

    Raises:
        ConfigError: there is no module list with one entry per hidden layer.
    """
    num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if not stacks:
        raise ConfigError(
            f"{type(model).__name__}: found no stack of {num_layers} decoder layers to read the "
            "memory in"
        )
    return stacks[0]
