"""Predictions against float64, number by number, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actors.layers.predicted import FewLikeliest, Predicted, Teacher

V = 23


def drawn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_float64(
    z_NV: Tensor, targets_N: Tensor, teachers: dict[str, Tensor], num: int
) -> dict[str, Tensor]:
    """Every number that a prediction gives, position by position and token by token."""
    found: dict[str, list[Tensor]] = {"nll": [], "logsumexp": [], "entropy": []}
    found |= {name: [] for name in teachers}
    for n, z_V in enumerate(z_NV):
        lse = z_V.exp().sum().log()
        q_V = (z_V - lse).exp()
        found["nll"].append(lse - z_V[targets_N[n]])
        found["logsumexp"].append(lse)
        if n < num:
            found["entropy"].append(-(q_V * q_V.log()).sum().detach())
        for name, logits_MV in teachers.items():
            if n < len(logits_MV):
                p_V = logits_MV[n].double().softmax(-1)
                found[name].append((p_V * (p_V.log() - (z_V - lse))).sum())
    nothing = z_NV.new_zeros(0)
    return {name: torch.stack(of) if of else nothing for name, of in found.items()}


def numbers_of(
    z_NV: Tensor,
    targets_N: Tensor,
    teachers: dict[str, Tensor],
    num: int,
) -> dict[str, Tensor]:
    taught = {name: Teacher.of(logits) for name, logits in teachers.items()}
    said = Predicted(z_NV, targets_N, taught, num)
    found = {"nll": said.nll_N, "logsumexp": said.logsumexp_N, "entropy": said.entropy(num)}
    for name, logits in teachers.items():
        (found[name],) = said.kl(len(logits), name)
    return found


@pytest.mark.parametrize(
    ("num", "taught"),
    [(6, {}), (6, {"data": 6}), (6, {"data": 4, "before": 2}), (1, {"data": 1}), (0, {})],
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_every_number_and_its_gradient_are_those_of_float64(
    num: int, taught: dict[str, int], scale: float
) -> None:
    z_NV = drawn(num, V, scale=scale)
    targets_N = torch.arange(num) * 5 % V
    teachers = {name: drawn(m, V, seed=m) for name, m in taught.items()}
    num_entropies = num // 2
    wide, narrow = z_NV.double().requires_grad_(), z_NV.clone().requires_grad_()
    want = of_float64(wide, targets_N, teachers, num_entropies)
    got = numbers_of(narrow, targets_N, teachers, num_entropies)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name].double(), want[name], atol=2e-5, rtol=1e-5)
    assert not got["entropy"].requires_grad
    if not num:
        return
    factors = {name: drawn(len(of), seed=7) for name, of in want.items() if name != "entropy"}
    sum((factors[n].double() * want[n]).sum() for n in factors).backward()  # type: ignore[union-attr]
    sum((factors[n] * got[n]).sum() for n in factors).backward()  # type: ignore[union-attr]
    assert wide.grad is not None
    assert narrow.grad is not None
    torch.testing.assert_close(narrow.grad.double(), wide.grad, atol=1e-5, rtol=1e-4)


def test_a_token_without_probability_has_a_finite_loss_and_gradient() -> None:
    z_NV = torch.zeros(1, V)
    z_NV[0, 3] = 300.0
    z_NV.requires_grad_()
    said = Predicted(z_NV, torch.tensor([5]), {"data": Teacher.of(drawn(1, V))}, 1)
    (said.nll_N + said.kl(1, "data")[0]).sum().backward()
    assert said.nll_N.item() == pytest.approx(300.0)
    assert said.entropy(1).item() == pytest.approx(0.0, abs=1e-5)
    assert z_NV.grad is not None
    assert z_NV.grad.isfinite().all()


def test_logits_of_half_width_are_widened_and_get_a_gradient_of_their_own_width() -> None:
    z_NV = drawn(4, V).bfloat16().requires_grad_()
    said = Predicted(z_NV, torch.arange(4))
    want = nn.functional.cross_entropy(z_NV.float(), torch.arange(4), reduction="none").detach()
    torch.testing.assert_close(said.nll_N, want, atol=1e-5, rtol=1e-5)
    said.nll_N.sum().backward()
    assert z_NV.grad is not None
    assert z_NV.grad.dtype == torch.bfloat16


def bucketed(z_NV: Tensor, few: FewLikeliest) -> Tensor:
    """KL to the ids and the bucket, by autograd."""
    q_NV = z_NV.softmax(-1)
    q_NK = q_NV.gather(1, few.ids_NK)
    others_N = 1 - q_NK.sum(-1)
    p_NK, rest_N = few.p_NK.to(q_NV), few.rest_N.to(q_NV)
    kl_N = (p_NK * (p_NK.log() - q_NK.log())).sum(-1)
    return kl_N + torch.xlogy(rest_N, rest_N / others_N)


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("num", [6, 4])
def test_a_teacher_of_a_few_ids_and_a_bucket_has_the_values_and_gradients_of_autograd(
    scale: float, num: int
) -> None:
    z_NV, targets_N = drawn(6, V, scale=scale), torch.arange(6)
    dense = Teacher.of(drawn(num, V, seed=5))
    p_NK, ids_NK = dense.p_NV.topk(5)
    few = FewLikeliest(ids_NK, p_NK, dense.entropy_N)
    narrow, wide = z_NV.clone().requires_grad_(), z_NV.double().requires_grad_()
    predicted = Predicted(narrow, targets_N, {"data": few, "whole": dense}, 6)
    (kl_M, whole_M), weight_M = predicted.kl(num, "data", "whole"), torch.arange(1.0, num + 1)
    ((kl_M * weight_M).sum() + whole_M.sum() + predicted.nll_N.sum()).backward()
    want_M = bucketed(wide[:num], few)
    whole = (dense.p_NV.double() * (dense.logp_NV.double() - wide[:num].log_softmax(-1))).sum()
    own = nn.functional.cross_entropy(wide, targets_N, reduction="sum")
    ((want_M * weight_M.double()).sum() + whole + own).backward()
    torch.testing.assert_close(kl_M.double(), want_M, atol=2e-5, rtol=1e-5)
    assert narrow.grad is not None
    torch.testing.assert_close(narrow.grad.double(), wide.grad, atol=2e-5, rtol=1e-5)
    assert (kl_M >= -1e-6).all()


def test_a_teacher_of_all_ids_is_the_whole_one() -> None:
    z_NV, dense = drawn(4, V), Teacher.of(drawn(4, V, seed=3))
    p_NK, ids_NK = dense.p_NV.sort(descending=True)
    few = FewLikeliest(ids_NK, p_NK, dense.entropy_N)
    predicted = Predicted(z_NV, torch.zeros(4, dtype=torch.long), {"few": few, "all": dense})
    torch.testing.assert_close(*predicted.kl(4, "few", "all"), atol=2e-5, rtol=1e-4)
