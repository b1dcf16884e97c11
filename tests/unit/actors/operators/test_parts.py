"""Parts of a pass against the whole of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actors.operators.parts import CPU_LOGITS, Cut, leading, linear, parts_of, positions_at_once

V = 23


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [slice(V), slice(9), slice(9, None)])
@pytest.mark.parametrize("trained", [True, False])
def test_a_weights_gradient_is_added_to_its_own(rows: slice, trained: bool) -> None:
    x_ND, weight = drawn(5, 4), nn.Parameter(drawn(V, 4, seed=1), requires_grad=trained)
    before = drawn(V, 4, seed=2)
    weight.grad = before.clone() if trained else None
    factors = drawn(5, len(weight[rows]), seed=3)
    one, other = (x_ND.clone().requires_grad_() for _ in range(2))
    made = linear(one, weight, rows, into_grad=True)
    (factors * made).sum().backward()
    plain = weight.detach().clone().requires_grad_()
    want = linear(other, plain, rows, into_grad=False)
    (factors * want).sum().backward()
    assert torch.equal(made, want)
    assert one.grad is not None
    torch.testing.assert_close(one.grad, other.grad)
    if trained:
        assert weight.grad is not None
        assert plain.grad is not None
        torch.testing.assert_close(weight.grad - before, plain.grad, atol=1e-5, rtol=1e-4)
    else:
        assert weight.grad is None


def test_a_weight_that_trains_alone_gets_its_gradient_too() -> None:
    weight = nn.Parameter(drawn(V, 4))
    linear(drawn(5, 4), weight, slice(V), into_grad=True).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, drawn(5, 4).sum(0).expand(V, 4))


def test_backward_passes_that_end_at_a_cut_go_on_from_there_as_one() -> None:
    found = []
    for cuts in (False, True):
        start = drawn(6, 4).requires_grad_()
        made, unused, fixed = start.tanh(), start.exp(), drawn(2, 4)
        if not cuts:
            made.square().sum().backward()
        else:
            cut = Cut(made, unused, fixed)
            leaf, _, still = cut.leaves
            assert not still.requires_grad
            for part in parts_of(6, 4):
                leaf[part].square().sum().backward()
            joined = cut.joined()
            assert joined is not None
            joined.backward()
        assert start.grad is not None
        found.append(start.grad)
    torch.testing.assert_close(found[1], found[0])
    assert Cut(drawn(2, 4)).joined() is None


def test_parts_cover_every_position_once() -> None:
    assert list(parts_of(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(parts_of(0, 3)) == []
    assert [leading(4, part) for part in parts_of(7, 3)] == [slice(0, 3), slice(3, 4), slice(4, 4)]


def test_as_many_positions_as_are_set_or_as_fit() -> None:
    cpu = torch.device("cpu")
    assert positions_at_once(49152, cpu) * 49152 * 4 <= 32 << 20  # what glibc's heap keeps
    assert positions_at_once(1536, cpu) >= 16 * 64  # the quickstart's batch at once
    assert positions_at_once(CPU_LOGITS * 2, cpu) == 1
    assert positions_at_once(49152, cpu, 7) == 7
    assert positions_at_once(49152, torch.device("cuda")) > 1024
