"""The optimizers against torch's AdamW and a loop over rows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from actors.settings.groups import OptimizerSpec
from actors.snapshots.flat_parameters import FROZEN, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.optim import DenseOptimizer, RowAdam, clip, learning_rate
from actors.training.process_group import ProcessGroup
from tests.unit.actors.tiny import build_memory

SPEC = OptimizerSpec(lr=1e-2, warmup_steps=4, final_lr_frac=0.1, weight_decay=0.1)
ALONE = ProcessGroup()
BETAS = (0.9, 0.98)


def rate(step: int, total: int = 24) -> float:
    return learning_rate(1.0, SPEC, step, total)


def sparse(rows: list[int], values_ND: Tensor, num_rows: int) -> Tensor:
    size = (num_rows, values_ND.shape[1])
    return torch.sparse_coo_tensor(torch.tensor([rows]), values_ND, size, check_invariants=True)


class SlowRowAdam:
    """Adam of one row at a time, in python floats."""

    def __init__(self, table: list[list[float]], clip: float) -> None:
        self.table, self.clip = table, clip
        self.first = [[0.0] * len(row) for row in table]
        self.second, self.updates = [0.0] * len(table), [0] * len(table)

    def step(self, gradients: dict[int, list[float]], lr: float) -> None:
        norm = math.sqrt(sum(g * g for row in gradients.values() for g in row))
        shrink = min(1.0, self.clip / norm)
        for r, row in gradients.items():
            g = [shrink * x for x in row]
            self.updates[r] += 1
            mean_square = sum(x * x for x in g) / len(g)
            self.second[r] = BETAS[1] * self.second[r] + (1 - BETAS[1]) * mean_square
            second = self.second[r] / (1 - BETAS[1] ** self.updates[r])
            for d, x in enumerate(g):
                self.first[r][d] = BETAS[0] * self.first[r][d] + (1 - BETAS[0]) * x
                first = self.first[r][d] / (1 - BETAS[0] ** self.updates[r])
                self.table[r][d] -= lr * first / (math.sqrt(second) + 1e-8)


def module() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))


def test_the_rate_rises_in_equal_steps_to_its_peak() -> None:
    assert [rate(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_rate_follows_a_cosine_after_the_warm_up() -> None:
    want = [0.1 + 0.9 * (1 + math.cos(math.pi * (step - 4) / 20)) / 2 for step in range(4, 25)]
    assert [rate(step) for step in range(4, 25)] == pytest.approx(want)


def test_the_rate_ends_at_its_floor_and_stays_there() -> None:
    assert [rate(24), rate(25), rate(1000)] == pytest.approx([0.1] * 3)


def test_a_schedule_without_warm_up_starts_at_its_peak() -> None:
    spec = OptimizerSpec(warmup_steps=0)
    assert learning_rate(0.5, spec, 0, 10) == 0.5


def test_a_schedule_shorter_than_its_warm_up_only_rises() -> None:
    assert [rate(step, total=2) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("name", "shape", "section"),
    [
        ("values", (9, 4), "rows"),
        ("model.layer.weight", (3, 4), "decay"),
        ("encoder.embed.weight", (3, 4), "decay"),
        ("keys", (2, 2, 3, 4), "no_decay"),
        ("norm.weight", (4,), "no_decay"),
        ("port.gates.0.bias", (), "no_decay"),
        ("model.values", (3, 4), "decay"),
    ],
)
def test_a_parameter_belongs_to_the_section_of_its_name_and_shape(
    name: str, shape: tuple[int, ...], section: str
) -> None:
    assert section_of(name, torch.zeros(shape)) == section


def test_row_adam_equals_adam_of_one_row_at_a_time() -> None:
    table = torch.randn(6, 3, dtype=torch.float64)
    slow, fast = SlowRowAdam(table.tolist(), clip=2.0), RowAdam(table, BETAS, clip_norm=2.0)
    for step, rows in enumerate(([0, 3], [3, 3, 5], [0, 5, 3, 0], [2], [0, 1, 2, 3])):
        values = (0.3 + step) * torch.randn(len(rows), 3, dtype=torch.float64)
        table.grad = sparse(rows, values, 6)
        summed = {r: [0.0] * 3 for r in rows}
        for r, value in zip(rows, values.tolist(), strict=True):
            summed[r] = [a + b for a, b in zip(summed[r], value, strict=True)]
        fast.step(0.01 * (step + 1), ALONE)
        slow.step(summed, 0.01 * (step + 1))
    torch.testing.assert_close(table, torch.tensor(slow.table, dtype=torch.float64))


def test_row_adam_leaves_untouched_rows_and_their_state_bit_for_bit() -> None:
    table = torch.randn(6, 3)
    adam = RowAdam(table, BETAS, clip_norm=1.0)
    table.grad = sparse([1, 2, 4], torch.randn(3, 3), 6)
    adam.step(0.1, ALONE)
    kept = [t.clone() for t in (table, adam.first_RD, adam.second_R, adam.updates_R)]
    table.grad = sparse([1, 5], torch.randn(2, 3), 6)
    adam.step(0.1, ALONE)
    untouched = [0, 2, 3, 4]
    now = (table, adam.first_RD, adam.second_R, adam.updates_R)
    assert all(torch.equal(a[untouched], b[untouched]) for a, b in zip(now, kept, strict=True))


def test_row_adam_returns_the_norm_before_clipping_and_the_rows_written() -> None:
    table = torch.zeros(4, 2)
    table.grad = sparse([1, 1, 3], torch.tensor([[3.0, 0.0], [0.0, 4.0], [12.0, 0.0]]), 4)
    assert RowAdam(table, BETAS, clip_norm=1.0).step(0.1, ALONE) == (pytest.approx(13.0), 2)


def test_row_adam_without_a_gradient_does_nothing() -> None:
    table = torch.ones(4, 2)
    assert RowAdam(table, BETAS, clip_norm=1.0).step(0.1, ALONE) == (0.0, 0)


def test_row_adam_takes_the_gradient_away() -> None:
    table = torch.ones(4, 2)
    table.grad = sparse([1], torch.ones(1, 2), 4)
    RowAdam(table, BETAS, clip_norm=1.0).step(0.1, ALONE)
    assert table.grad is None


def test_dense_steps_equal_torchs_adamw_on_the_module_as_it_was() -> None:
    ours, theirs = module(), module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    rest = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=SPEC.lr, betas=SPEC.betas, weight_decay=0.1)
    for step in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        dense.zero_grad()
        (10 * ours(x).square().sum()).backward()
        dense.step(0.01 * (step + 1))
        adamw.zero_grad()
        (10 * theirs(x).square().sum()).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), SPEC.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = 0.01 * (step + 1)
        adamw.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_a_dense_step_returns_the_norm_before_clipping() -> None:
    ours = module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    (100 * ours(torch.ones(2, 5)).square().sum()).backward()
    squares = [float(p.grad.double().square().sum()) for p in ours.parameters()]
    assert dense.step(0.1) == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)


def test_a_dense_step_clips_to_the_common_norm() -> None:
    ours = module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    (100 * ours(torch.ones(2, 5)).square().sum()).backward()
    dense.step(0.1)
    squares = [float(p.grad.double().square().sum()) for p in ours.parameters()]
    assert math.sqrt(sum(squares)) == pytest.approx(SPEC.clip_norm, rel=1e-5)


def test_a_small_gradient_is_not_clipped() -> None:
    ours = module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    (1e-3 * ours(torch.ones(2, 5)).square().sum()).backward()
    before = dense.gradient.clone()
    dense.step(0.1)
    assert torch.equal(before, dense.gradient)


@pytest.mark.parametrize("norm", [0.0, 0.3, 0.7, 0.7000001, 1.0, 3.3, 1e30])
def test_clipping_gives_the_bits_that_a_host_that_knows_the_norm_would(norm: float) -> None:
    limit, norm_of = 0.7, torch.tensor(norm)
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    want = gradient.clone()
    if float(norm_of) > limit:
        want.mul_(limit / float(norm_of))
    clip(gradient, norm_of, limit)
    assert torch.equal(gradient, want)


def test_clearing_the_gradients_keeps_them_views_of_the_flat_ones() -> None:
    ours = module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    dense.zero_grad()
    ours(torch.ones(2, 5)).sum().backward()
    total = sum(float(p.grad.abs().sum()) for p in ours.parameters())
    assert float(dense.gradient.abs().sum()) == pytest.approx(total)


def test_the_dense_optimizer_leaves_the_value_table_alone() -> None:
    memory = build_memory()
    values = copy.deepcopy(memory.values.data)
    dense = DenseOptimizer(FlatParameters(memory, section_of), SPEC)
    dense.gradient.fill_(1.0)
    dense.step(0.1)
    assert torch.equal(memory.values, values)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.82, 0.64, 0.46, 0.28, 0.1]),
        ("wsd", [1.0, 1.0, 1.0, 1.0, 0.55, 0.1]),
        ("cosine", [1.0, 0.914058, 0.689058, 0.410942, 0.185942, 0.1]),
    ],
)
def test_a_schedule_goes_from_the_peak_to_its_final_share(
    schedule: str, rates: list[float]
) -> None:
    spec = OptimizerSpec(warmup_steps=0, schedule=schedule, decay_frac=0.4)  # type: ignore[arg-type]
    got = [learning_rate(1.0, spec, step, 10) for step in range(0, 11, 2)]
    assert got == pytest.approx(rates, abs=1e-6)


def test_moments_are_live_and_steps_can_be_set() -> None:
    ours = module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC)
    ours(torch.ones(2, 5)).square().sum().backward()
    dense.step(0.1)
    assert all(float(moment.abs().sum()) > 0 for moment in dense.moments().values())
    dense.set_steps(7)
    assert {float(state["step"]) for state in dense.adamw.state.values()} == {7.0}


def test_a_frozen_copy_is_in_a_section_that_is_not_laid_out() -> None:
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    named = {"encoder.copy.layers.0.mlp.weight": matrix, "encoder.copy.norm.weight": vector}
    assert {section_of(*item) for item in named.items()} == {FROZEN}
    assert section_of("encoder.project.weight", matrix) == "decay"


def test_parameters_that_are_apart_have_a_rate_of_their_own_and_share_the_clipping() -> None:
    ours, theirs = module(), module()
    dense = DenseOptimizer(FlatParameters(ours, section_of), SPEC, lambda name: name[0] == "2")
    apart = [p for n, p in theirs.named_parameters() if n[0] == "2"]
    assert 0 < len(apart) < len(list(theirs.parameters()))
    groups = [
        {"params": [p], "lr": 0.03 if n[0] == "2" else 0.01, "weight_decay": 0.1 * (p.dim() >= 2)}
        for n, p in theirs.named_parameters()
    ]
    adamw = torch.optim.AdamW(groups, betas=SPEC.betas)
    for step in range(3):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        dense.zero_grad()
        (10 * ours(x).square().sum()).backward()
        dense.step(0.01, 0.03)
        adamw.zero_grad()
        (10 * theirs(x).square().sum()).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), SPEC.clip_norm)
        adamw.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)
