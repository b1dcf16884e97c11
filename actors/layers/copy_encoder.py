"""The encoder of a memory beside a pretrained data layer: a frozen copy of its first layers.

The copy is taken of the starting weights and nothing changes it, so that the data layer can learn
without moving what was stored; only the projection to the memory's width is trained. Its weights
are no part of what is trained, published or adopted (`optim.section_of`); every process takes the
same copy from the same checkpoint, and an export holds it.

Shapes: B sequences, T tokens, R tokens before, W the data layer's width, D d_m.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from actors.layers.data_layer import decoder_layers, packed_inputs
from actors.layers.memory_layer import EncoderState, rms
from actors.operators.precision import compute_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CopyEncoder(nn.Module):
    """rms(P rms(h)), h what the copied layers make of the tokens of one document up to here.

    Args:
        front: embedding and first decoder layers of a Hugging Face model; kept, and frozen.
        dim: d_m; where it is the model's own width there is no projection P.
    """

    def __init__(self, front: PreTrainedModel, dim: int) -> None:
        super().__init__()
        self.copy = front.requires_grad_(False).eval()
        width = int(front.config.hidden_size)
        self.project = None if width == dim else nn.Linear(width, dim, bias=False)
        self._hidden_BTW: Tensor | None = None
        # the model's last norm belongs after layers that the copy doesn't have
        self.blocks[-1].register_forward_hook(self._keep_hidden)

    @property
    def blocks(self) -> nn.ModuleList:
        """The copied decoder layers."""
        return decoder_layers(self.copy)

    @property
    def config(self) -> dict[str, Any]:
        """What `causal_lm.front_of` makes the copied layers of again."""
        described: dict[str, Any] = self.copy.config.to_dict()
        return {k: v for k, v in described.items() if k not in ("_name_or_path", "architectures")}

    def train(self, mode: bool = True) -> CopyEncoder:
        """Never puts the copy in training: its dropout would move addresses."""
        super().train(mode)
        self.copy.eval()
        return self

    def _keep_hidden(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._hidden_BTW = output[0] if isinstance(output, tuple) else output

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        state: EncoderState | None = None,
        one_document: bool | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """u (B, T, D) and the state after the last token: keys and values of every layer."""
        from transformers import DynamicCache

        past_BR = segments_BT[:, :0] if state is None else state.segments_BR
        cache = DynamicCache()
        if state is not None:
            pairs = zip(state.inputs[::2], state.inputs[1::2], strict=True)
            for layer, (keys, values) in enumerate(pairs):
                cache.update(keys, values, layer)
        dtype = compute_dtype(tokens_BT.device, self.copy.dtype)
        with torch.no_grad():
            self.copy(
                input_ids=tokens_BT,
                **packed_inputs(segments_BT, dtype, past_BR, one_document),
                past_key_values=cache,
                use_cache=True,
            )
        hidden_BTW, self._hidden_BTW = self._hidden_BTW, None
        assert hidden_BTW is not None
        u = rms(hidden_BTW)
        if self.project is not None:
            u = rms(self.project(u))
        inputs = tuple(t for layer in cache.layers for t in (layer.keys, layer.values))
        return u, EncoderState(inputs, torch.cat([past_BR, segments_BT], dim=1))
