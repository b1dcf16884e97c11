"""Ranks as threads: what they sum and gather is the same on every one of them."""

from __future__ import annotations

import pytest
import torch

from actors.training.process_group import ProcessGroup, Rendezvous
from tests.unit.actors.tiny import in_ranks


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_sum_is_the_same_to_the_bit_on_every_rank(num_ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(num_ranks, 100_003, generator=generator)
    sums = in_ranks(num_ranks, lambda ranks: ranks.add(parts[ranks.rank].clone()))
    torch.testing.assert_close(sums[0], parts.sum(0))
    assert all(torch.equal(sums[0], other) for other in sums)


def test_a_sum_is_the_same_to_the_bit_in_every_fresh_group() -> None:
    parts = torch.randn(3, 5_001, generator=torch.Generator().manual_seed(1))
    once, again = (in_ranks(3, lambda r: r.add(parts[r.rank].clone()))[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_bytes_are_gathered_in_rank_order_whatever_their_length(num_ranks: int) -> None:
    payloads = [b"zero", b"", b"the second rank says more"][:num_ranks]
    gathered = in_ranks(num_ranks, lambda ranks: ranks.gather(payloads[ranks.rank]))
    assert gathered == [payloads] * num_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32])
def test_rows_are_gathered_in_rank_order_whatever_their_number(dtype: torch.dtype) -> None:
    rows = [torch.full((num, 2), num, dtype=dtype) for num in (2, 0, 3)]
    gathered = in_ranks(3, lambda ranks: ranks.gather_rows(rows[ranks.rank]))
    for each in gathered:
        assert all(torch.equal(a, b) for a, b in zip(each, rows, strict=True))


def test_a_group_of_one_needs_no_store() -> None:
    alone = ProcessGroup()
    value = torch.ones(3)
    assert alone.add(value) is value
    assert alone.gather(b"x") == [b"x"]


def test_a_partner_that_never_comes_is_given_up_after_the_timeout() -> None:
    rendezvous = Rendezvous("127.0.0.1")
    with pytest.raises(RuntimeError):
        ProcessGroup(0, 2, rendezvous.store, timeout_s=0.5).add(torch.ones(1))


def test_a_partner_that_stays_away_from_a_sum_is_given_up_after_the_timeout() -> None:
    def work(ranks: ProcessGroup) -> str:
        if ranks.rank == 1:
            return "stayed away"
        with pytest.raises(RuntimeError):
            ranks.add(torch.ones(1))
        return "gave up"

    assert in_ranks(2, work, timeout_s=1.0) == ["gave up", "stayed away"]
