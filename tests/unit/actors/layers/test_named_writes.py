"""Writes beside the table: what is read is the table plus those that are on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from actors.layers.named_writes import NamedWrites, novelty
from actors.operators.closed_form import Overlay
from tests.unit.actors.tiny import build_memory, one_document, tokens
from tests.unit.actors.told import assert_same, made_write

# Shapes: R rows of the table, D its width.
NAMES = ("a", "b", "c")


def made(*names: str) -> NamedWrites:
    writes = NamedWrites()
    for number, name in enumerate(names):
        writes = writes.add(made_write(name, number, num_rows=20))
    return writes


def test_a_memory_reads_its_table_plus_the_writes_that_are_on() -> None:
    memory, written = build_memory().requires_grad_(False), build_memory().requires_grad_(False)
    ids = tokens(2, 9)
    memory.writes = made(*NAMES).switch("b", False)
    for write in memory.writes.on:
        written.values.index_add_(0, write.rows_U, write.values_UD)
    got, want = (m.read(ids, one_document(ids)) for m in (memory, written))
    torch.testing.assert_close(got.y, want.y)
    assert torch.equal(got.slots, want.slots)
    marks_R = torch.zeros(len(memory.values))
    for write in memory.writes.on:
        marks_R.index_add_(0, write.rows_U, write.mark_U)
    mark = (marks_R[got.slots] * got.weights).sum((-1, -2))
    m = (memory.values[got.slots] * got.weights.unsqueeze(-1)).sum((-2, -3))
    new = novelty(m, want.y - m, mark)
    assert got.freshness is not None
    torch.testing.assert_close(
        got.freshness, torch.sigmoid((new - 0.5) / 0.02), atol=1e-4, rtol=1e-4
    )


def test_without_writes_that_are_on_reads_have_the_table_s_bits_and_no_freshness() -> None:
    memory, ids = build_memory().requires_grad_(False), tokens(2, 9)
    before = memory.read(ids, one_document(ids)).y
    memory.writes = made("a").switch("a", False)
    read = memory.read(ids, one_document(ids))
    assert torch.equal(read.y, before)
    assert read.freshness is None


def test_one_more_write_gives_the_bits_of_all_of_them_added_up() -> None:
    one_by_one = made(*NAMES).overlay()
    at_once = Overlay.of([made_write(name, n, num_rows=20) for n, name in enumerate(NAMES)])
    assert one_by_one is not None
    assert torch.equal(one_by_one.rows_U, at_once.rows_U)
    assert torch.equal(one_by_one.values_UD, at_once.values_UD)
    assert torch.equal(one_by_one.mark_U, at_once.mark_U)


def test_writes_less_themselves_leave_nothing() -> None:
    writes = list(made(*NAMES))
    assert not Overlay.of(writes, writes).values_UD.abs().max() > 1e-6


def test_writes_are_added_removed_and_switched_by_name() -> None:
    writes = made(*NAMES)
    assert [write.id for write in writes.remove("b")] == ["a", "c"]
    assert [write.id for write in writes.switch("b", False).on] == ["a", "c"]
    assert len(writes) == 3
    assert writes.opening_at(0.3).overlay() is writes.overlay()
    with pytest.raises(ValueError, match="a write 'a' already"):
        writes.add(made_write("a"))
    for change in (writes.remove, writes.get, lambda id: writes.switch(id, True)):
        with pytest.raises(KeyError, match="no write 'x'; told and not taken back: a, b, c"):
            change("x")


def test_a_memory_is_trusted_with_a_token_as_far_as_it_was_told_it_and_at_least_to_two_nats() -> (
    None
):
    sure, unsure = (
        replace(made_write(id), unsure=tokens) for id, tokens in (("a", {1: 1.8}), ("b", {3: 5.0}))
    )
    assert NamedWrites((made_write("c"),)).unsure_at.tolist() == [2]
    both = NamedWrites((sure, unsure)).unsure_at
    torch.testing.assert_close(both, torch.tensor([2, 1.2 * 1.8, 2, 1.2 * 5, 2]))
    assert torch.equal(NamedWrites((unsure, sure)).unsure_at, both)
    assert len(NamedWrites((sure, replace(unsure, on=False))).unsure_at) == 3


def test_a_write_is_tensors_and_json() -> None:
    write = replace(made_write("a", 4), on=False, unsure={7: 3.5})
    assert_same(type(write).from_tensors(write.to_tensors(), write.to_json()), write)


def test_a_write_from_before_tokens_were_marked_is_described_as_it_was() -> None:
    write = replace(made_write("a", 4), unsure={})
    described = {"id": "a", "told_at": 1004.0, "figures": {"residual": 0.5}, "on": True}
    described["associations"] = [one.to_json() for one in write.associations]
    assert write.to_json() == described  # checksums are of that
    assert_same(type(write).from_tensors(write.to_tensors(), described), write)
