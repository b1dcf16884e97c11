"""The memory layer: tokens determine which slots are read, and slots alone what is read.

A small causal encoder that never sees the data layer turns tokens into addresses of a product-key
table, or the last tokens are hashed (`ngrams`). What is read there is both the data layer's input
(`read`) and the memory's only source for its own prediction (`predict`). Knows no losses, no
optimizer and no data layer.

Shapes: B sequences, T tokens, D d_m, C tokens of a context, H heads, S slots_side (n), K slots read
per head, V token ids.
Sources: Lample et al. 2019 (arXiv 1907.05242), Berges et al. 2024 (arXiv 2412.09764).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.windows import Windows, ids_of
from actors.layers.named_writes import NamedWrites
from actors.layers.ngrams import NgramAddresses
from actors.operators.fused import largest, pooled, taps, unit
from actors.operators.fused import rms as rms
from actors.operators.parts import linear
from actors.operators.precision import in_float32, widen
from actors.operators.token_bags import TokenBags, last_tokens
from actors.settings.layers import MemoryLayerSpec

NO_SEGMENT = -2  # history before a sequence's first token: the same document as nothing
TAU_INIT = 1.0  # soft: the many slots that are found answer together


@dataclass(frozen=True)
class EncoderState:
    """What the encoder keeps of earlier tokens; the batch is each tensor's first dim.

    Of each convolution, a tensor of past inputs; of a frozen copy, keys and values in turn; of
    contexts, the tokens.
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
    side_scores: Tensor | None  # (2, ..., H, S) of both half keys, for the balance term
    freshness: Tensor | None = None  # (...), in [0, 1]; None: no named write is on


def product_topk(sides: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of all sums sides[0, ..., i] + sides[1, ..., j], exactly, from the k largest of
    each side.

    Args:
        sides: (2, ..., S) scores of the two half keys.

    Returns:
        scores (..., k), in any order, and slots (..., k) with slot = i * S + j.

    Source: Lample et al. 2019, section 3.1.
    """
    with torch.no_grad():
        at = largest(sides.detach(), k, ordered=True)
        top, pairs_2P = sides.gather(-1, at), _pairs(k, sides.device)
        sums = top[0].index_select(-1, pairs_2P[0]) + top[1].index_select(-1, pairs_2P[1])
        chosen = at.gather(-1, pairs_2P[:, largest(sums, k, ordered=False)])
        i, j = chosen.unbind(0)
    return sides.gather(-1, chosen).sum(0), torch.add(j, i, alpha=sides.shape[-1])


@lru_cache(maxsize=8)
def _pairs(k: int, device: torch.device) -> Tensor:
    """Places (i, j) in two descending lists of which the sum may be among the k largest, (2, P).

    (i + 1)(j + 1) - 1 others are at least as large, so about k ln k pairs will do for k * k.
    """
    pairs = [(i, j) for i in range(k) for j in range(k) if (i + 1) * (j + 1) <= k]
    return torch.tensor(pairs, device=device).T.contiguous()


class GatedConv(nn.Module):
    """x + a * sigmoid(g), (a, g) linear in the `taps` normed inputs at distances 0, d, 2d, ...

    of one document.
    """

    def __init__(self, dim: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.taps, self.dilation = taps, dilation
        self.proj = nn.Linear(taps * dim, 2 * dim)

    @property
    def reach(self) -> int:
        """Tokens back that the farthest tap sees."""
        return (self.taps - 1) * self.dilation

    def forward(
        self, x_BTD: Tensor, past_BRD: Tensor, segments_BS: Tensor, same_BTR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and the inputs that the next call needs as its past.

        Args:
            x_BTD, past_BRD: tokens, and normed inputs before them.
            segments_BS: documents of all tokens, those before included.
            same_BTR: 1 where the token at each distance, from 0 on, is of the same document.
        """
        z_BSD = torch.cat([past_BRD, rms(x_BTD)], dim=1)
        same_BTK = same_BTR[..., : self.reach + 1 : self.dilation]
        taps_BTE = taps(z_BSD, same_BTK, self.dilation)
        out_BTD = x_BTD + F.glu(self.proj(taps_BTE), dim=-1)
        return out_BTD, z_BSD[:, -self.reach :]


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
        self, x_BTD: Tensor, past_BRD: Tensor, segments_BS: Tensor, same_BTR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and all inputs so far; arguments as of `GatedConv`."""
        tokens, past = x_BTD.shape[1], past_BRD.shape[1]
        z = rms(x_BTD) if past == 0 else torch.cat([past_BRD, rms(x_BTD)], dim=1)
        segments_BS = segments_BS[:, -past - tokens :]
        split = (3, self.heads, z.shape[2] // self.heads)
        q, k, v = self.qkv(z).view(*z.shape[:2], *split).permute(2, 0, 3, 1, 4).unbind(0)
        mask = (segments_BS[:, past:].unsqueeze(2) == segments_BS.unsqueeze(1)).tril_(past)
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
        self.reach = max(block.reach for block in blocks if isinstance(block, GatedConv))
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
        segments = torch.cat([state.segments_BR, segments_BT], dim=1)
        # seen by each token, newest first, as far back as a convolution reaches
        around = segments[:, -tokens_BT.shape[1] - self.reach :].unfold(1, self.reach + 1, 1)
        same = (around.flip(2) == segments_BT.unsqueeze(-1)).to(x.dtype)
        for block, past in zip(self.blocks, state.inputs, strict=True):
            x, after = block(x, past, segments, same)
            inputs.append(after)
        segments = segments[:, segments.shape[1] - max(after.shape[1] for after in inputs) :]
        return rms(x), EncoderState(tuple(inputs), segments)


class Contexts(nn.Module):
    """The last tokens of the same document at each position; takes the place of an encoder."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.blocks = nn.ModuleList()  # nothing to compile

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        state: EncoderState | None = None,
        one_document: bool | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """Contexts (B, T, C), int64, and the state after the last token: the tokens before."""
        reach = self.num_tokens - 1
        if state is None:
            batch = len(tokens_BT)
            past_BR = tokens_BT.new_zeros(batch, reach)
            state = EncoderState((past_BR,), torch.full_like(past_BR, NO_SEGMENT))
        tokens_BS = torch.cat([state.inputs[0], tokens_BT], dim=1)
        segments_BS = torch.cat([state.segments_BR, segments_BT], dim=1)
        seen_BTC = segments_BS.unfold(1, self.num_tokens, 1).flip(2) == segments_BT.unsqueeze(-1)
        contexts_BTC = (tokens_BS.unfold(1, self.num_tokens, 1).flip(2) + 1) * seen_BTC
        keep = slice(tokens_BS.shape[1] - reach, None)
        return contexts_BTC, EncoderState((tokens_BS[:, keep],), segments_BS[:, keep])


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
        self._bags: tuple[Windows | None, TokenBags] | None = None
        dim, heads = spec.dim, spec.heads
        self.ngrams = NgramAddresses(spec) if spec.hashes else None
        if self.ngrams is not None:
            self.encoder: nn.Module = Contexts(spec.ngram_tokens)
        else:
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
        """What addresses are made of: u (B, T, D) from tokens alone, or contexts (B, T, C), and the
        state after the last token.

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
            heads, num, dim = self.spec.heads, self.spec.slots_side, self.spec.key_dim
            q_NGd = unit(self.query(widen(u)).view(-1, 2 * heads, dim))  # G: a head's sides in turn
            keys_Gnd = (unit(self.keys) * self.tau.exp().view(-1, 1, 1, 1)).view(-1, num, dim)
            scores_GNn = torch.bmm(q_NGd.transpose(0, 1), keys_Gnd.transpose(1, 2))
            sides_2NHn = scores_GNn.view(heads, 2, -1, num).permute(1, 2, 0, 3)
            return sides_2NHn.unflatten(1, u.shape[:-1]) if u.dim() != 2 else sides_2NHn

    @property
    def token_bags(self) -> TokenBags:
        """Of the last tokens of a document, weighted by the sample that the memory keeps."""
        if self._bags is None or self._bags[0] is not self.kept:
            self._bags = self.kept, TokenBags.of(ids_of(self.kept), self.num_tokens)
        return self._bags[1]

    def read_at(self, u: Tensor, said: Tensor | None = None) -> Read:
        """The read y (..., D) at the encoding u (..., D), or context (..., C): y = m, or
        m * silu(W_1 u) with the gate.

        m is the weighted sum of the slots found, and of what named writes add to them; or what was
        told where something was told nearby. Training reads only where there is something to
        predict, so that no other row gets a gradient, even a zero one.

        `said`, (..., C): the last tokens up to each position, of `token_bags.last_tokens`, by which
        what was told is found beside encodings; None: by encodings alone.
        """
        sides, slots, weights = self.addresses(u)
        flat_slots, flat_weights = (t.reshape(-1, self.reads_per_key) for t in (slots, weights))
        m = pooled(flat_slots, self.values, flat_weights).view(*u.shape[:-1], self.spec.dim)
        freshness: Tensor | None = None
        if (overlay := self.writes.overlay(u.device)) is not None:
            told, mark = overlay.read(flat_slots, flat_weights)
            told, mark = told.view_as(m), mark.view(u.shape[:-1])
            m, freshness = m + told, self.writes.freshness(m, told, mark)
        if self.writes.by_nearness:
            bags = self.token_bags
            nearest = self.writes.nearest(bags, u.device)
            assert nearest is not None
            said_PC = None if said is None else said.flatten(0, -2)
            m, share = nearest.read(u, m, said_PC, bags, self.predict)
            freshness = share if freshness is None else torch.maximum(share, freshness)
        return Read(self.gated(m, u), slots, weights, sides, freshness)

    @property
    def reads_per_key(self) -> int:
        """Rows of the value table that a position reads, H * K."""
        return self.spec.reads_per_key

    def addresses(self, u: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Where the encoding u (..., D), or context, reads: side scores (2, ..., H, S), slots
        (..., H, K) and their weights (..., H, K).
        """
        if self.ngrams is not None:
            return None, *self.ngrams(u)
        sides = self.side_scores(u)
        scores, slots = product_topk(sides, self.spec.topk)
        return sides, slots, scores.softmax(dim=-1)

    def gated(self, m: Tensor, u: Tensor) -> Tensor:
        """What was read, through the gate where there is one."""
        return m if self.gate is None else m * F.silu(self.gate(u))

    def read(
        self, tokens_BT: Tensor, segments_BT: Tensor, one_document: bool | None = None
    ) -> Read:
        """`encode` and `read_at` of every position."""
        u_BTD, _ = self.encode(tokens_BT, segments_BT, one_document=one_document)
        near = self.writes.by_nearness
        return self.read_at(u_BTD, last_tokens(tokens_BT, segments_BT) if near else None)

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
