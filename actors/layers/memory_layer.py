"""The memory layer: tokens determine which slots are read, and slots alone what is read.

A small causal encoder that never sees the data layer turns tokens into addresses of a product-key
table; what is read there is both the data layer's input (`read`) and the memory's only source for
its own prediction (`predict`). Knows no losses, no optimizer and no data layer.

Shapes: B sequences, T tokens, D d_m, H heads, S slots_side (n), K slots read per head, V token ids.
Sources: Lample et al. 2019 (arXiv 1907.05242), Berges et al. 2024 (arXiv 2412.09764).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.windows import Windows
from actors.layers.named_writes import NamedWrites
from actors.layers.precision import in_float32, widen
from actors.layers.predicted import linear
from actors.settings.layers import MemoryLayerSpec

NO_SEGMENT = -2  # history before a sequence's first token: the same document as nothing
TAU_INIT = 1.0  # soft: the many slots that are found answer together


@dataclass(frozen=True)
class EncoderState:
    """What the encoder keeps of earlier tokens; the batch is each tensor's first dim.

    Of each convolution, a tensor of past inputs; of a frozen copy, keys and values in turn.
    """

    inputs: tuple[
        Tensor, ...
    ]  # each (B, R, D): the convolution's reach; for attention, all tokens so far
    segments_BR: Tensor  # (B, longest R)

    def select(self, rows: Tensor) -> EncoderState:
        """The state of these sequences, in this order; a sequence may occur more than once."""
        return EncoderState(tuple(past[rows] for past in self.inputs), self.segments_BR[rows])


@dataclass(frozen=True)
class Read:
    """One read of the memory per position.

    `...` is whatever shape the encodings had, e.g. (B, T).
    """

    y: Tensor  # (..., D)
    slots: Tensor  # (..., H, K) row numbers of the value table
    weights: Tensor  # (..., H, K), sum to 1 over K
    side_scores: Tensor  # (2, ..., H, S) scores of both half keys, for the balance term
    freshness: Tensor | None = None  # (...), in [0, 1]; None: no named write is on


def rms(x: Tensor) -> Tensor:
    """x over its root mean square along the last dim; no weights."""
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


def product_topk(s1: Tensor, s2: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of all sums s1[..., i] + s2[..., j], exactly, from the k largest of each side.

    Args:
        s1, s2: (..., S) scores of the two half keys.

    Returns:
        scores (..., k), descending, and slots (..., k) with slot = i * S + j.

    Source: Lample et al. 2019, section 3.1.
    """
    with torch.no_grad():
        top1, i1 = s1.topk(k, dim=-1)
        top2, i2 = s2.topk(k, dim=-1)
        first_P, second_P = _pairs(k, s1.device)
        best = (top1[..., first_P] + top2[..., second_P]).topk(k, dim=-1).indices
        i, j = i1.gather(-1, first_P[best]), i2.gather(-1, second_P[best])
    return s1.gather(-1, i) + s2.gather(-1, j), i * s1.shape[-1] + j


@lru_cache(maxsize=8)
def _pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places (i, j) in two descending lists of which the sum may be among the k largest.

    (i + 1)(j + 1) - 1 others are at least as large, so about k ln k pairs will do for k * k.
    """
    pairs = [(i, j) for i in range(k) for j in range(k) if (i + 1) * (j + 1) <= k]
    first_P, second_P = torch.tensor(pairs, device=device).T
    return first_P, second_P


class GatedConv(nn.Module):
    """x + a * sigmoid(g), (a, g) linear in the `taps` normed inputs at distances 0, d, 2d, ...

    of one document.
    """

    def __init__(self, dim: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.shifts = [tap * dilation for tap in range(taps)]
        self.proj = nn.Linear(taps * dim, 2 * dim)

    @property
    def reach(self) -> int:
        """Tokens back that the farthest tap sees."""
        return self.shifts[-1]

    def forward(
        self, x_BTD: Tensor, past_BRD: Tensor, segments_BT: Tensor, past_BR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and the inputs that the next call needs as its past."""
        tokens = x_BTD.shape[1]
        z = torch.cat([past_BRD, rms(x_BTD)], dim=1)
        segments = torch.cat([past_BR, segments_BT], dim=1)
        taps = []
        for shift in self.shifts:
            begin = self.reach - shift
            same = segments[:, begin : begin + tokens] == segments_BT
            taps.append(z[:, begin : begin + tokens] * same.unsqueeze(-1))
        a, g = self.proj(torch.cat(taps, dim=-1)).chunk(2, dim=-1)
        return x_BTD + a * torch.sigmoid(g), z[:, z.shape[1] - self.reach :]


class Attention(nn.Module):
    """x + W_o of causal attention within one document, without positions: a token is found wherever
    it is.
    """

    reach = 0  # no inputs are kept from before the first token

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x_BTD: Tensor, past_BRD: Tensor, segments_BT: Tensor, past_BR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and all inputs so far."""
        tokens, past = x_BTD.shape[1], past_BRD.shape[1]
        z = torch.cat([past_BRD, rms(x_BTD)], dim=1)
        segments = torch.cat([past_BR, segments_BT], dim=1)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(z).chunk(3, dim=-1)
        )
        at = torch.arange(past + tokens, device=x_BTD.device)
        mask = (segments_BT.unsqueeze(2) == segments.unsqueeze(1)) & (at[past:, None] >= at)
        out = F.scaled_dot_product_attention(q[:, :, past:], k, v, attn_mask=mask.unsqueeze(1))
        return x_BTD + self.proj(out.transpose(1, 2).flatten(2)), z


class Encoder(nn.Module):
    """Token embeddings, gated causal convolutions, attention; a document's start resets it."""

    def __init__(self, spec: MemoryLayerSpec, num_tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_tokens, spec.dim)
        blocks: list[nn.Module] = [
            GatedConv(spec.dim, spec.conv_taps, d) for d in spec.conv_dilations
        ]
        if spec.attention_heads:  # before the last convolution, which combines its results
            blocks.insert(len(blocks) - 1, Attention(spec.dim, spec.attention_heads))
        self.blocks = nn.ModuleList(blocks)
        nn.init.normal_(self.embed.weight, std=spec.dim**-0.5)  # also the output matrix

    def start(self, batch: int, like: Tensor) -> EncoderState:
        """The state before a sequence's first token."""
        reaches = [block.reach for block in self.blocks if isinstance(block, GatedConv | Attention)]
        inputs = tuple(like.new_zeros(batch, reach, self.embed.embedding_dim) for reach in reaches)
        return EncoderState(
            inputs, torch.full((batch, max(reaches)), NO_SEGMENT, device=like.device)
        )

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        state: EncoderState | None = None,
        one_document: bool | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """u (B, T, D) and the state after the last token; `one_document` makes no difference."""
        x = self.embed(tokens_BT)
        if state is None:
            state = self.start(tokens_BT.shape[0], x)
        inputs = []
        for block, past in zip(self.blocks, state.inputs, strict=True):
            past_segments = state.segments_BR[:, state.segments_BR.shape[1] - past.shape[1] :]
            x, after = block(x, past, segments_BT, past_segments)
            inputs.append(after)
        segments = torch.cat([state.segments_BR, segments_BT], dim=1)
        segments = segments[:, segments.shape[1] - max(after.shape[1] for after in inputs) :]
        return rms(x), EncoderState(tuple(inputs), segments)


class MemoryLayer(nn.Module):
    """The memory: encoder, addresses, value table and the prediction from what was read.

    Args:
        spec: sizes.
        vocab_rows: rows of the data layer's output matrix.
        num_tokens: ids that the tokenizer has; rows beyond it are never predicted.
        encoder: makes encodings of width d_m, as `Encoder` does; by default one of convolutions.

    Attributes:
        writes: what the memory was told; reads are of the table and the writes that are on.
        kept: a sample of what it trained on, whose reads stay where something is written; None:
            it has none.
    """

    def __init__(
        self,
        spec: MemoryLayerSpec,
        vocab_rows: int,
        num_tokens: int,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if num_tokens > vocab_rows:
            raise ValueError(
                f"tokenizer has {num_tokens} ids, the data layer only {vocab_rows} output rows"
            )
        self.spec = spec
        self.num_tokens = num_tokens
        self.vocab_rows = vocab_rows
        self.writes = NamedWrites()
        self.kept: Windows | None = None
        dim, heads = spec.dim, spec.heads
        self.encoder = Encoder(spec, vocab_rows) if encoder is None else encoder
        self.query = nn.Linear(dim, heads * 2 * spec.key_dim, bias=False)
        self.keys = nn.Parameter(torch.randn(heads, 2, spec.slots_side, spec.key_dim))
        self.tau = nn.Parameter(torch.full((heads,), TAU_INIT))
        self.values = nn.Parameter(torch.randn(spec.num_slots, dim) / math.sqrt(dim))
        self.gate = nn.Linear(dim, dim, bias=False) if spec.gate else None
        self.project = nn.Linear(dim, dim, bias=False)
        self.out = None if spec.ties_output else nn.Linear(dim, vocab_rows, bias=False)

    def encode(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        state: EncoderState | None = None,
        one_document: bool | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """What addresses are made of: u (B, T, D) from tokens alone, and the state after the last
        token.

        Args:
            tokens_BT: token ids.
            segments_BT: document of each position in its window; documents don't see each other.
            state: what an earlier call returned, when a sequence is fed piece by piece.
            one_document: whether all segments are 0, those before too; None: a frozen copy finds
                out, for which a GPU is waited for.
        """
        u_BTD, after = self.encoder(tokens_BT, segments_BT, state, one_document)
        return widen(u_BTD), after

    def side_scores(self, u: Tensor) -> Tensor:
        """Scores of both half keys, (2, ..., H, S).

        e^tau times the cosine of half query and key.
        """
        with in_float32(u.device):  # rounding would move a token to another slot
            q = self.query(widen(u)).unflatten(-1, (self.spec.heads, 2, self.spec.key_dim))
            q, keys = F.normalize(q, dim=-1), F.normalize(self.keys, dim=-1)
            return torch.einsum("...hsd,hsnd->s...hn", q, keys) * self.tau.exp()[:, None]

    def read_at(self, u: Tensor) -> Read:
        """The read y (..., D) at the encoding u (..., D): y = m, or m * silu(W_1 u) with the gate.

        m is the weighted sum of the slots found, and of what named writes add to them. Training
        reads only where there is something to predict, so that no other row gets a gradient, even
        a zero one.
        """
        sides, slots, weights = self.addresses(u)
        flat_slots, flat_weights = (t.reshape(-1, self.reads_per_key) for t in (slots, weights))
        m = F.embedding_bag(
            flat_slots,
            self.values,
            per_sample_weights=flat_weights,
            mode="sum",
            sparse=self.values.requires_grad,  # gradient and optimizer work follow the rows
        ).view_as(u)
        if (overlay := self.writes.overlay(u.device)) is None:
            return Read(self.gated(m, u), slots, weights, sides)
        told, mark = overlay.read(flat_slots, flat_weights)
        told, mark = told.view_as(u), mark.view(u.shape[:-1])
        freshness = self.writes.freshness(m, told, mark)
        return Read(self.gated(m + told, u), slots, weights, sides, freshness)

    @property
    def reads_per_key(self) -> int:
        """Rows of the value table that a position reads, H * K."""
        return self.spec.heads * self.spec.topk

    def addresses(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the encoding u (..., D) reads: side scores (2, ..., H, S), slots (..., H, K) and
        their weights (..., H, K).
        """
        sides = self.side_scores(u)
        scores, slots = product_topk(sides[0], sides[1], self.spec.topk)
        return sides, slots, scores.softmax(dim=-1)

    def gated(self, m: Tensor, u: Tensor) -> Tensor:
        """What was read, through the gate where there is one."""
        return m if self.gate is None else m * F.silu(self.gate(u))

    def read(
        self, tokens_BT: Tensor, segments_BT: Tensor, one_document: bool | None = None
    ) -> Read:
        """`encode` and `read_at` of every position."""
        u_BTD, _ = self.encode(tokens_BT, segments_BT, one_document=one_document)
        return self.read_at(u_BTD)

    def predict(self, y: Tensor, into_grad: bool = False) -> Tensor:
        """The memory's own logits (..., V), E_out rms(W_2 y), over the tokenizer's ids only.

        Args:
            y: what was read, (..., D).
            into_grad: as in `predicted.linear`, of E_out.
        """
        return self._logits(rms(self.project(y)), into_grad)

    def guess(self, u: Tensor, into_grad: bool = False) -> Tensor:
        """Logits (..., V) = E_out u of the encoding u (..., D) alone, without slots.

        Training lowers its loss, so that encodings, and with them addresses, carry over to other
        wordings; no prediction is made of it.
        """
        return self._logits(u, into_grad)

    def _logits(self, x: Tensor, into_grad: bool) -> Tensor:
        if self.out is not None:
            rows = self.out.weight
        else:
            assert isinstance(self.encoder, Encoder)
            rows = self.encoder.embed.weight
        return linear(x, rows, slice(self.num_tokens), into_grad)
