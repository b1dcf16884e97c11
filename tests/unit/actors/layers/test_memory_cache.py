"""The memory's layer of a cache: what moves keys and values moves it; it knows its voice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from actors.layers.memory_cache import MemoryCache
from actors.layers.memory_layer import MemoryLayer
from tests.unit.actors.tiny import build_memory, one_document, tokens

IDS = tokens(3, 8)


@pytest.fixture
def memory() -> MemoryLayer:
    return build_memory().requires_grad_(False)


def filled(memory: MemoryLayer, ids: Tensor, voice: str = "help") -> MemoryCache:
    past = MemoryCache(voice)
    past.extend(memory, ids, one_document(ids))
    return past


def next_encoding(past: MemoryCache, memory: MemoryLayer, ids: Tensor) -> Tensor:
    return past.extend(memory, ids, one_document(ids))


def whole_encoding(memory: MemoryLayer, ids: Tensor) -> Tensor:
    u_BTD, _ = memory.encode(ids, one_document(ids))
    return u_BTD


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_the_next_tokens_are_encoded_after_those_before(memory: MemoryLayer) -> None:
    past = filled(memory, IDS[:, :5])
    close(next_encoding(past, memory, IDS[:, 5:]), whole_encoding(memory, IDS)[:, 5:])
    assert past.get_seq_length() == 8


def test_without_padding_the_tokens_before_are_not_encoded_again(memory: MemoryLayer) -> None:
    past = filled(memory, IDS[:, :5])
    lengths: list[int] = []
    memory.encoder.register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
    next_encoding(past, memory, IDS[:, 5:6])
    next_encoding(past, memory, IDS[:, 6:8])
    assert lengths == [1, 2]


@pytest.mark.parametrize("mask", [[1] * 8, [0, 0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 0]])
@pytest.mark.parametrize("pieces", [(8,), (4, 4), (1,) * 8])
def test_padding_anywhere_is_as_if_it_were_not_there(
    memory: MemoryLayer, mask: list[int], pieces: tuple[int, ...]
) -> None:
    real = torch.tensor(mask).bool()
    segments = torch.where(real, 0, -1).expand(3, 8)
    past, got = MemoryCache("help"), []
    for ids, part in zip(IDS.split(pieces, dim=1), segments.split(pieces, dim=1), strict=True):
        got.append(past.extend(memory, ids, part))
    close(torch.cat(got, dim=1)[:, real], whole_encoding(memory, IDS[:, real]))


@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1, 0], [2]])
@pytest.mark.parametrize("method", ["reorder_cache", "batch_select_indices"])
def test_rows_are_moved_and_taken(memory: MemoryLayer, rows: list[int], method: str) -> None:
    past = filled(memory, IDS[:, :5])
    getattr(past, method)(torch.tensor(rows))
    got = next_encoding(past, memory, IDS[rows, 5:])
    close(got, whole_encoding(memory, IDS[rows])[:, 5:])


def test_rows_moved_after_a_crop_are_read_again_in_their_new_order(memory: MemoryLayer) -> None:
    past = filled(memory, IDS)
    past.crop(-3)
    past.reorder_cache(torch.tensor([2, 0, 1]))
    got = next_encoding(past, memory, IDS[[2, 0, 1], 5:])
    close(got, whole_encoding(memory, IDS[[2, 0, 1]])[:, 5:])


def test_rows_are_repeated(memory: MemoryLayer) -> None:
    past = filled(memory, IDS[:, :5])
    past.batch_repeat_interleave(2)
    rows = [0, 0, 1, 1, 2, 2]
    got = next_encoding(past, memory, IDS[rows, 5:])
    close(got, whole_encoding(memory, IDS[rows])[:, 5:])


def test_cropped_tokens_are_forgotten(memory: MemoryLayer) -> None:
    other = tokens(3, 2, seed=5)
    past = filled(memory, IDS)
    past.crop(-3)
    want = whole_encoding(memory, torch.cat([IDS[:, :5], other], dim=1))[:, 5:]
    close(next_encoding(past, memory, other), want)


def test_cropping_nothing_keeps_the_state(memory: MemoryLayer) -> None:
    past = filled(memory, IDS)
    before = past.state
    past.crop(0)
    assert past.state is before
    assert past.get_seq_length() == 8


def test_cropping_to_a_length_is_refused(memory: MemoryLayer) -> None:
    with pytest.raises(ValueError, match="got 3"):
        filled(memory, IDS).crop(3)


def test_a_reset_cache_starts_anew(memory: MemoryLayer) -> None:
    past = filled(memory, IDS)
    past.reset()
    assert past.get_seq_length() == 0
    close(next_encoding(past, memory, IDS), whole_encoding(memory, IDS))


def test_an_empty_layer_may_be_moved() -> None:
    past = MemoryCache("help")
    past.reorder_cache(torch.tensor([1, 0]))
    past.batch_repeat_interleave(2)
    past.crop(-2)
    past.offload()
    past.prefetch()
    assert (past.get_seq_length(), past.get_max_length()) == (0, -1)
    assert past.get_mask_sizes(3) == (3, 0)


def test_it_holds_no_keys_and_values() -> None:
    with pytest.raises(TypeError, match="no keys and values"):
        MemoryCache("help").update(torch.zeros(1), torch.zeros(1))


def kv_cache(length: int = 8) -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.zeros(3, 2, length, 4), torch.zeros(3, 2, length, 4), 0)
    return cache


def test_it_stands_after_the_layers_with_keys_and_values(memory: MemoryLayer) -> None:
    cache, past = kv_cache(), filled(memory, IDS)
    past.attach(cache)
    past.attach(cache)
    assert cache.layers[1:] == [past]
    assert MemoryCache.inside(cache) is MemoryCache.of(cache, "help") is past


def test_a_memory_that_speaks_alone_is_the_only_layer(memory: MemoryLayer) -> None:
    cache, past = DynamicCache(), filled(memory, IDS, "memory")
    past.attach(cache)
    assert cache.layers == [past]
    assert cache.get_seq_length() == 8


def test_whatever_moves_the_cache_moves_the_memory(memory: MemoryLayer) -> None:
    cache, past = kv_cache(), filled(memory, IDS)
    past.attach(cache)
    cache.crop(-3)
    cache.reorder_cache(torch.tensor([2, 1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 4]))
    assert past.tokens_BP is not None
    assert torch.equal(past.tokens_BP, IDS[[2, 0], :5])
    assert cache.layers[0].keys.shape == (2, 2, 5, 4)
    assert cache.is_croppable


def test_no_cache_is_a_fresh_start() -> None:
    assert MemoryCache.of(None, "help").get_seq_length() == 0
    MemoryCache.refuse(None)
    MemoryCache.refuse(kv_cache())


def test_another_voice_is_refused(memory: MemoryLayer) -> None:
    cache = kv_cache()
    filled(memory, IDS).attach(cache)
    with pytest.raises(ValueError, match="by the voice help and can't be continued by memory"):
        MemoryCache.of(cache, "memory")
    with pytest.raises(ValueError, match="by the voice help and can't be continued by own"):
        MemoryCache.refuse(cache)


def test_keys_and_values_of_other_tokens_are_refused(memory: MemoryLayer) -> None:
    cache = kv_cache(6)
    filled(memory, IDS).attach(cache)
    with pytest.raises(ValueError, match="holds 6 tokens, of which the memory has seen 8"):
        MemoryCache.of(cache, "help")
