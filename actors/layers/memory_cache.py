"""The memory encoder's state after the tokens so far, carried from token to token in a KV cache.

One more layer in the cache's list, so that whatever moves the data layer's keys and values (beam
search, cropping, repeating rows, a deep copy) moves the memory's encoder with them, whichever class
the cache is of.

Shapes: B sequences, T tokens of this call, P tokens so far with them, D memory width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from actors.corpus.windows import PADDING
from actors.layers.memory_layer import EncoderState, MemoryLayer, Read
from actors.operators.token_bags import last_tokens


class MemoryCache(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """The tokens so far and the encoder's state after them.

    The tokens are kept beside the state because a state can't be taken back: after `crop`, and
    where padding follows a token, the encoder reads them once more.

    Args:
        voice: whose continuation this is; another voice has other keys and values.
    """

    is_sliding = False
    is_croppable = True
    supports_early_init = False  # holds no keys and values

    def __init__(self, voice: str) -> None:
        super().__init__()
        self.voice = voice
        self.tokens_BP: Tensor | None = None
        self.segments_BP: Tensor | None = None
        self.state: EncoderState | None = None

    @staticmethod
    def inside(cache: Cache) -> MemoryCache | None:
        """The memory's layer of this cache, if it has one."""
        return next((layer for layer in cache.layers if isinstance(layer, MemoryCache)), None)

    @staticmethod
    def of(cache: Cache | None, voice: str) -> MemoryCache:
        """The memory's layer of this cache, or a fresh one, for `voice` to continue.

        Raises:
            ValueError: the cache belongs to another voice, holds tokens that the memory has not
                seen, or is of fixed size.
        """
        if cache is None:
            return MemoryCache(voice)
        if (past := MemoryCache.inside(cache)) is None:
            if cache.is_compileable:
                raise ValueError(
                    f"a {type(cache).__name__} has no room for the memory's state; leave "
                    "cache_implementation unset, or give a DynamicCache"
                )
            past = MemoryCache(voice)
        if past.voice != voice:
            raise ValueError(
                f"the cache was filled by the voice {past.voice} and can't be continued by {voice};"
                " give a new cache and all tokens"
            )
        if cache.get_seq_length() != past.get_seq_length():
            raise ValueError(
                f"the cache holds {cache.get_seq_length()} tokens, of which the memory has seen "
                f"{past.get_seq_length()}; with the memory on, give a new cache and all tokens"
            )
        return past

    @staticmethod
    def refuse(cache: Cache | None) -> None:
        """Raises: ValueError where the memory helped to fill a cache for the data layer alone."""
        past = None if cache is None else MemoryCache.inside(cache)
        if past is not None:
            raise ValueError(
                f"the cache was filled by the voice {past.voice} and can't be continued by own; "
                "give a new cache and all tokens"
            )

    def attach(self, cache: Cache) -> None:
        """Puts the layer into `cache`, after those that the data layer has just filled.

        Where the memory predicts alone it is the only layer, so that the cache's length is its own.
        """
        if MemoryCache.inside(cache) is None:
            cache.layers[:] = [*(cache.layers if self.voice != "memory" else ()), self]

    def extend(self, memory: MemoryLayer, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """u (B, T, D) of the next tokens, which are kept.

        Args:
            memory: the memory layer; always the same one.
            tokens_BT: token ids.
            segments_BT: 0, or `PADDING` where there is no token; padding may be anywhere and has
                no effect.
        """
        past = self.get_seq_length()
        if self.tokens_BP is None or self.segments_BP is None:
            self.tokens_BP, self.segments_BP = tokens_BT, segments_BT
        else:
            self.tokens_BP = torch.cat([self.tokens_BP, tokens_BT], dim=1)
            self.segments_BP = torch.cat([self.segments_BP, segments_BT], dim=1)
        if self.state is not None and bool((segments_BT != PADDING).all()):
            u_BTD, self.state = memory.encode(tokens_BT, segments_BT, self.state)
            return u_BTD
        tokens_BP, segments_BP, back_BP = self._padded_left()
        u_BPD, self.state = memory.encode(tokens_BP, segments_BP)
        return u_BPD.gather(1, back_BP.unsqueeze(-1).expand_as(u_BPD))[:, past:]

    def read(self, memory: MemoryLayer, tokens_BT: Tensor, segments_BT: Tensor) -> Read:
        """What is read at the next tokens, which are kept; arguments as of `extend`."""
        u_BTD = self.extend(memory, tokens_BT, segments_BT)
        if not memory.writes.by_nearness:
            return memory.read_at(u_BTD)
        tokens_BP, segments_BP, back_BP = self._padded_left()
        said_BPC = last_tokens(tokens_BP, segments_BP)
        back_BT1 = back_BP[:, -tokens_BT.shape[1] :, None]
        said_BTC = said_BPC.gather(1, back_BT1.expand(-1, -1, said_BPC.shape[2]))
        return memory.read_at(u_BTD, said_BTC)

    def _padded_left(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and segments (B, P) with all padding moved to the left, and where each is now."""
        assert self.tokens_BP is not None
        assert self.segments_BP is not None
        order_BP = (self.segments_BP != PADDING).byte().argsort(dim=1, stable=True)
        tokens_BP = self.tokens_BP.gather(1, order_BP)
        return tokens_BP, self.segments_BP.gather(1, order_BP), order_BP.argsort(dim=1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continues with these rows, in this order."""
        if self.tokens_BP is None or self.segments_BP is None:
            return
        rows = beam_idx.to(self.tokens_BP.device)
        self.tokens_BP, self.segments_BP = self.tokens_BP[rows], self.segments_BP[rows]
        self.state = self.state and self.state.select(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Continues with these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Continues with each row so many times."""
        if self.tokens_BP is not None:
            rows = torch.arange(len(self.tokens_BP), device=self.tokens_BP.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last -`tokens_to_remove` tokens (a number <= 0, as for the other layers)."""
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop takes minus the number of tokens to forget, got {tokens_to_remove}"
            )
        if tokens_to_remove and self.tokens_BP is not None and self.segments_BP is not None:
            self.tokens_BP = self.tokens_BP[:, :tokens_to_remove]
            self.segments_BP = self.segments_BP[:, :tokens_to_remove]
            self.state = None

    def reset(self) -> None:
        """Forgets everything."""
        self.tokens_BP = self.segments_BP = self.state = None

    def get_seq_length(self) -> int:
        """Tokens so far, padding included."""
        return 0 if self.tokens_BP is None else self.tokens_BP.shape[1]

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset, as of a layer that keeps everything."""
        return self.get_seq_length() + query_length, 0

    def offload(self) -> None:
        """Stays where it is: some bytes per token."""

    def prefetch(self) -> None:
        """Is there already."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """No keys, no values: nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Never called for a layer beyond the model's own."""
        raise TypeError("the memory's cache layer holds no keys and values")
