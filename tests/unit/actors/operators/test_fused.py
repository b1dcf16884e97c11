"""Hand-written gradients against those of autograd, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.operators.fused import few_largest, largest, permuted, pooled, rms, taps, unit


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradient(of: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    """The result, and the gradients of a fixed weighting of it."""
    leaves = [x.clone().requires_grad_() for x in given]
    result = of(*leaves)
    (result * drawn(*result.shape, seed=9)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want) > 1
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.to_dense() if one.is_sparse else one, other)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_the_root_mean_square_is_the_librarys(scale: float) -> None:
    x = scale * drawn(3, 5, 8)
    assert_same(with_gradient(rms, x), with_gradient(lambda x: F.rms_norm(x, (8,), eps=1e-6), x))


def test_the_root_mean_square_of_half_width_is_as_wide_as_what_it_is_of() -> None:
    x = drawn(4, 8).bfloat16().requires_grad_()
    y = rms(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_a_unit_vector_is_the_librarys() -> None:
    x = drawn(3, 5, 8)
    assert_same(with_gradient(unit, x), with_gradient(lambda x: F.normalize(x, dim=-1), x))
    assert torch.equal(unit(torch.zeros(2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize(("num", "dilation"), [(2, 1), (3, 2), (4, 4)])
def test_taps_are_the_tokens_at_their_distances(num: int, dilation: int) -> None:
    tokens, reach = 7, (num - 1) * dilation
    z_BSD = drawn(2, reach + tokens, 3)
    same_BTK = (drawn(2, tokens, num, seed=1) > 0).to(z_BSD.dtype)

    def one_by_one(z_BSD: Tensor) -> Tensor:
        found = []
        for tap in range(num):
            begin = reach - tap * dilation
            found.append(z_BSD[:, begin : begin + tokens] * same_BTK[..., tap : tap + 1])
        return torch.cat(found, dim=-1)

    got = with_gradient(lambda z: taps(z, same_BTK, dilation), z_BSD)
    assert_same(got, with_gradient(one_by_one, z_BSD))


def test_pooled_rows_are_an_embedding_bag_whose_gradient_has_each_row_once() -> None:
    slots_NE = torch.tensor([[4, 1, 4], [0, 4, 2], [2, 2, 5]])
    values, weights = drawn(7, 5).float(), drawn(3, 3, seed=1).float()

    def slow(values: Tensor, weights: Tensor) -> Tensor:
        return (values[slots_NE] * weights.unsqueeze(-1)).sum(1)

    got = with_gradient(lambda v, w: pooled(slots_NE, v, w), values, weights)
    assert got[1]._indices()[0].tolist() == [0, 1, 2, 4, 5]
    assert_same(got, with_gradient(slow, values, weights))


def test_pooled_rows_that_do_not_train_teach_the_weights_all_the_same() -> None:
    slots_NE = torch.tensor([[1, 0]])
    values, weights = drawn(2, 5).float(), drawn(1, 2, seed=1).float().requires_grad_()
    pooled(slots_NE, values, weights).sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad[0], values.sum(1)[slots_NE[0]])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_the_largest_are_those_of_a_sort(k: int, ordered: bool) -> None:
    x = drawn(2, 3, 9).transpose(0, 1)  # not contiguous
    want = x.sort(dim=-1, descending=True).indices[..., :k]
    got = largest(x, k, ordered)
    assert torch.equal(got.sort().values, want.sort().values)
    assert not ordered or torch.equal(got, want)


def test_rows_in_another_order_and_their_gradients_are_those_of_indexing() -> None:
    x, order = drawn(6, 3), torch.tensor([4, 0, 5, 2, 1, 3])
    back = order.argsort()
    assert_same(
        with_gradient(lambda x: permuted(x, order, back), x),
        with_gradient(lambda x: x[order], x),
    )


@pytest.mark.parametrize(("num", "width"), [(8, 40), (8, 4100), (32, 9001), (32, 64)])
def test_the_few_largest_are_those_of_topk_in_its_order(num: int, width: int) -> None:
    x = drawn(5, width).float()
    assert torch.equal(few_largest(x, num), x.topk(num).indices)
    cut = x[:, : width - 3]  # as logits are cut to the tokenizer's ids
    assert torch.equal(few_largest(cut, num), cut.topk(num).indices)
