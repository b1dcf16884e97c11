"""Attention within the documents of packed windows, without a mask of tokens by tokens.

    bf16 on a GPU    torch's varlen kernel: flash attention over documents of any lengths
    elsewhere        the documents of one length are one batch of causal attention

Transformers calls it under the name `PACKED`, once `register` has run. Where the documents begin
comes in the place of a mask: a tensor of four dims, which models pass on as it is. Any other mask,
or none, is for sdpa. Knows no windows of attention: a run's windows are never longer than those.

Shapes: B sequences, T tokens, H query heads, G key heads, D width of a head, N documents of L
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.operators.fused import permuted

PACKED = "packed_documents"
INSTEAD = "set data.layer.attention: auto"
Bounds = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch's windows are, known in host memory.

    Attributes:
        segments_BT: document of each position; a window's last may be padding, -1.
    """

    segments_BT: npt.NDArray[np.int64]

    @classmethod
    def of(cls, segments_BT: Tensor) -> Documents:
        """Of a tensor, for which a GPU is waited for."""
        return cls(segments_BT.cpu().numpy())

    @cached_property
    def one(self) -> bool:
        """Whether every window is one document, without padding."""
        return bool((self.segments_BT == 0).all())

    @cached_property
    def begins_BT(self) -> npt.NDArray[np.bool_]:
        """Where one begins."""
        begins_BT = np.ones(self.segments_BT.shape, np.bool_)
        begins_BT[:, 1:] = self.segments_BT[:, 1:] != self.segments_BT[:, :-1]
        return begins_BT

    @cached_property
    def are_whole(self) -> bool:
        """Whether each is in one piece, as in windows of the corpus."""
        rows_BT = np.arange(len(self.segments_BT))[:, None] << 32
        return len(np.unique(rows_BT + self.segments_BT)) == int(self.begins_BT.sum())

    @property
    def positions_BT(self) -> npt.NDArray[np.int64]:
        """Tokens of the same document before each."""
        at_BT = np.broadcast_to(np.arange(self.begins_BT.shape[1]), self.begins_BT.shape)
        return at_BT - np.maximum.accumulate(np.where(self.begins_BT, at_BT, 0), axis=1)

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """What a model whose attention is `PACKED` takes instead of a mask, and positions."""
        bounds = np.flatnonzero(np.append(self.begins_BT, True)).astype(np.int32)
        return {
            "attention_mask": _on(device, bounds).view(1, 1, 1, -1),
            "position_ids": _on(device, self.positions_BT),
        }


def _on(device: torch.device, array: npt.NDArray[Any]) -> Tensor:
    """An array on a device, which is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def register() -> str:
    """Makes transformers know this attention; returns its name."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PACKED, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, sdpa_mask)  # generation has masks of padding
    return PACKED


def kernels(attention: str) -> str | None:
    """What transformers calls the attention of `DataLayerSpec.attention`."""
    if attention == "packed":
        return register()
    return None if attention == "auto" else attention


def why_not_packed(err: Exception) -> str | None:
    """What to say where a family's code knows no such attention; None: `err` is of another kind."""
    is_so = isinstance(err, LookupError) and PACKED in str(err)
    return f"this family has no packed attention; {INSTEAD}" if is_so else None


def attend(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers' own attention functions: returns (B, T, H, D).

    Args:
        module: the attention of a decoder layer.
        query_BHTD, key_BGTD, value_BGTD: of all positions.
        attention_mask: where documents begin, (1, 1, 1, N + 1) int32; anything else: for sdpa.
        dropout, scaling: of the scores.
        kwargs: what else transformers passes.

    Raises:
        ValueError: the model's scores are changed on the way, which this attention does not do.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        of_heads = query_BHTD, key_BGTD, value_BGTD
        return sdpa_attention_forward(
            module, *of_heads, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if changed := [n for n in ("softcap", "s_aux", "position_bias") if kwargs.get(n) is not None]:
        raise ValueError(
            f"attention with {changed[0]} is more than data.layer.attention packed computes"
        )
    bounds = attention_mask.flatten()
    shape = (*query_BHTD.transpose(1, 2).shape[:-1], value_BGTD.shape[-1])  # values may be narrower
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query_BHTD, key_BGTD, value_BGTD))
    is_of_kernel = not dropout and q.shape[-1] == v.shape[-1]
    if has_kernel(q.device, dtype := _computed_in(q)) and is_of_kernel:
        q, k, v = (x.to(dtype) for x in (q, k, v))
        out = _by_kernel(q, k, v, bounds, query_BHTD.shape[2], scaling)
    else:
        out = _by_length(q, k, v, bounds.cpu().numpy(), dropout, scaling)
    return out.view(shape), None


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a kernel for documents of any lengths there.

    Args:
        device: of the model.
        dtype: what attention computes in.
    """
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def _computed_in(x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """Over (B * T, heads, D) by flash attention; `longest`: no document has more tokens."""
    from torch.nn.attention.varlen import varlen_attn

    ends = bounds, bounds, longest, longest
    out = varlen_attn(q, k, v, *ends, scale=scaling, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)  # nothing besides was asked for
    return out


@torch.compiler.disable  # how many groups there are, and of what, is the batch's
def _by_length(
    q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, dropout: float, scaling: float | None
) -> Tensor:
    """Over (B * T, heads, D), the documents of one length at a time."""
    groups = list(groups_of(bounds))
    order = np.concatenate([at_NL.ravel() for at_NL in groups])
    there = torch.from_numpy(order).to(q.device)
    back = torch.empty_like(there).scatter_(0, there, torch.arange(len(order), device=q.device))
    rows = [permuted(x.flatten(1), there, back) for x in (q, k, v)]
    outs, start = [], 0
    for at_NL in groups:
        part = slice(start, start := start + at_NL.size)
        of_heads = (
            row[part].view(*at_NL.shape, *x.shape[1:]).transpose(1, 2)
            for row, x in zip(rows, (q, k, v), strict=True)
        )
        query, key, value = of_heads
        if (times := q.shape[1] // k.shape[1]) > 1:
            key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
        out_NHLD = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling
        )
        outs.append(out_NHLD.transpose(1, 2).reshape(at_NL.size, -1))
    return permuted(torch.cat(outs), back, there)


def groups_of(bounds: Bounds) -> Iterator[npt.NDArray[np.int64]]:
    """Places (N, L) of the tokens of all documents of one length, by length."""
    begins, lengths = bounds[:-1].astype(np.int64), np.diff(bounds)
    for length in np.unique(lengths):
        yield begins[lengths == length][:, None] + np.arange(length)
