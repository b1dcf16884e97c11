"""Writes solved in closed form, beside the dense float64 solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from actors.operators.closed_form import RESIDUAL, SparseReads, WriteSystem

# Shapes: N keys, M reads that stay, R rows of the table, U of them written, C columns.


def some_reads(num: int, rows: int, each: int, seed: int) -> SparseReads:
    """Reads as a memory makes them: weights that sum to 1 per head of four slots."""
    choices = torch.Generator().manual_seed(seed)
    slots = torch.randint(rows, (num, each), generator=choices)  # some twice in one read
    weights = torch.rand(num, each // 4, 4, generator=choices).softmax(-1).flatten(1)
    return SparseReads(slots, weights)


def dense(reads: SparseReads, rows: int) -> Tensor:
    out = torch.zeros(len(reads), rows, dtype=torch.float64)
    return out.scatter_add_(1, reads.slots_NE, reads.weights_NE.double())


def dense_solution(
    keys: SparseReads, staying: SparseReads, gamma_M: Tensor, wanted_NC: Tensor, ridge: float
) -> Tensor:
    """The definition: normal equations over the rows that the keys read, by a dense solver."""
    rows = int(max(keys.slots_NE.max(), staying.slots_NE.max())) + 1
    a, b = dense(keys, rows), dense(staying, rows)
    read_U = keys.slots_NE.unique()
    a, b = a[:, read_U], b[:, read_U]
    matrix = a.T @ a + b.T @ (gamma_M.double()[:, None] * b)
    matrix += ridge * torch.eye(len(read_U), dtype=torch.float64)
    return torch.linalg.solve(matrix, a.T @ wanted_NC.double())


@pytest.mark.parametrize(
    ("num_keys", "num_staying", "rows", "form"),
    [(40, 200, 60, "primal"), (5, 12, 400, "dual"), (7, 0, 30, "primal"), (3, 0, 400, "dual")],
)
def test_both_forms_give_the_dense_solution(
    num_keys: int, num_staying: int, rows: int, form: str
) -> None:
    keys, staying = some_reads(num_keys, rows, 8, 1), some_reads(max(1, num_staying), rows, 8, 2)
    if num_staying == 0:
        staying = staying.at(slice(0, 0))
    choices = torch.Generator().manual_seed(3)
    gamma_M = torch.rand(len(staying), generator=choices) * 2
    wanted_NC = torch.randn(num_keys, 5, generator=choices)
    system = WriteSystem(keys, staying, gamma_M, ridge=1e-2)
    if num_staying or form == "dual":
        assert system.form == form
    got, residual = system.solve(wanted_NC)
    both = staying if num_staying else some_reads(1, rows, 8, 9)
    gammas = gamma_M if num_staying else torch.zeros(1)
    want = dense_solution(keys, both, gammas, wanted_NC, 1e-2)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert residual <= 1e-5


@pytest.mark.parametrize(("num_staying", "rows", "form"), [(200, 60, "primal"), (12, 400, "dual")])
def test_small_ones_after_one_another_come_to_the_solution_of_all(
    num_staying: int, rows: int, form: str
) -> None:
    keys, staying = some_reads(10, rows, 8, 1), some_reads(num_staying, rows, 8, 2)
    gamma_M, wanted_NC = torch.ones(num_staying), torch.randn(10, 5)
    system = WriteSystem(keys, staying, gamma_M, ridge=1e-2)
    assert system.form == form
    sum_RC = torch.zeros(rows, 5)
    parts = [(keys.at(at), wanted_NC[at]) for at in (slice(0, 5), slice(5, 10))]
    for turn in range(200):  # each, the other and what was added before being known to it
        (now, now_NC), (other, other_NC) = parts[turn % 2], parts[1 - turn % 2]
        stay = SparseReads.concat([staying, other])
        to_be = torch.cat([torch.zeros(num_staying, 5), other_NC])
        is_MC, is_NC = dense(stay, rows).float() @ sum_RC, dense(now, rows).float() @ sum_RC
        part = WriteSystem(now, stay, torch.ones(len(stay)), ridge=1e-2)
        x_UC, _ = part.solve(now_NC - is_NC, to_be - is_MC, sum_RC[part.rows_U])
        sum_RC[part.rows_U] += x_UC
    joint_UC, _ = system.solve(wanted_NC)
    torch.testing.assert_close(sum_RC[system.rows_U], joint_UC, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
def test_a_large_system_is_solved_by_gradients_to_the_stated_residual(
    monkeypatch: pytest.MonkeyPatch, ridge: float
) -> None:
    monkeypatch.setattr("actors.operators.closed_form.EXACT_SIZE", 0)
    keys, staying = some_reads(60, 90, 8, 1), some_reads(300, 90, 8, 2)
    gamma_M, wanted_NC = torch.ones(300), torch.randn(60, 4)
    system = WriteSystem(keys, staying, gamma_M, ridge)
    assert system.form == "gradients"
    got, residual = system.solve(wanted_NC)
    want = dense_solution(keys, staying, gamma_M, wanted_NC, ridge)
    assert residual <= 1.01 * RESIDUAL
    assert float((got - want).norm() / want.norm()) < 0.05
    monkeypatch.setattr("actors.operators.closed_form.RESIDUAL", 1e-6)
    got, residual = system.solve(wanted_NC)
    torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-3)


def test_gradients_that_begin_near_the_solution_take_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.operators.closed_form.EXACT_SIZE", 0)
    keys, staying = some_reads(60, 90, 8, 1), some_reads(300, 90, 8, 2)
    wanted_NC, before_UC = torch.randn(60, 4), torch.randn(len(keys.slots_NE.unique()), 4)
    system = WriteSystem(keys, staying, torch.ones(300), 1e-2)
    there_UC, _ = system.solve(wanted_NC, before_UC=before_UC)
    monkeypatch.setattr("actors.operators.closed_form.STEPS", 0)
    near_UC, residual = system.solve(wanted_NC, before_UC=before_UC, near_UC=there_UC)
    assert torch.equal(near_UC, there_UC)
    assert residual <= 1.01 * RESIDUAL
    assert system.solve(wanted_NC)[1] == 1, "from nothing, nothing is solved in no steps"


@pytest.mark.parametrize("rows", [30, 500])
def test_what_was_added_before_counts_in_the_ridge_in_every_form(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    keys, staying = some_reads(20, rows, 8, 1), some_reads(15, rows, 8, 2)
    wanted_NC = torch.randn(20, 3)
    before_UC = torch.randn(len(keys.slots_NE.unique()), 3)
    factored, _ = WriteSystem(keys, staying, torch.ones(15), 0.1).solve(
        wanted_NC, before_UC=before_UC
    )
    monkeypatch.setattr("actors.operators.closed_form.EXACT_SIZE", 0)
    monkeypatch.setattr("actors.operators.closed_form.RESIDUAL", 1e-6)
    stepped, _ = WriteSystem(keys, staying, torch.ones(15), 0.1).solve(
        wanted_NC, before_UC=before_UC
    )
    torch.testing.assert_close(factored, stepped, atol=1e-4, rtol=1e-4)


def test_only_rows_that_the_keys_read_are_written_and_only_reads_that_share_them_count() -> None:
    keys = SparseReads(torch.tensor([[3, 7]]), torch.tensor([[0.5, 0.5]]))
    staying = SparseReads(torch.tensor([[7, 8], [1, 2]]), torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    system = WriteSystem(keys, staying, torch.ones(2))
    assert system.rows_U.tolist() == [3, 7]
    assert system.num_staying == 1
    x_UC, _ = system.solve(torch.tensor([[1.0]]))
    assert system.changed(x_UC)[0, 0] == pytest.approx(1.0, abs=0.02)
    assert abs(x_UC[1, 0]) < abs(x_UC[0, 0]), "row 7 is read by what stays"


def test_the_same_system_gives_the_same_bits() -> None:
    keys, staying = some_reads(30, 500, 16, 1), some_reads(800, 500, 16, 2)
    wanted_NC = torch.randn(30, 6)
    first, second = (WriteSystem(keys, staying, torch.ones(800)).solve(wanted_NC)[0] for _ in "ab")
    assert torch.equal(first, second)


def test_reads_that_moved_are_brought_back_as_far_as_they_count() -> None:
    keys, staying = some_reads(9, 60, 8, 1), some_reads(40, 60, 8, 2)
    choices = torch.Generator().manual_seed(3)
    gamma_M, wanted_NC = torch.rand(40, generator=choices), torch.randn(9, 2, generator=choices)
    back_MC = torch.randn(40, 2, generator=choices)
    got, _ = WriteSystem(keys, staying, gamma_M, 1e-2).solve(wanted_NC, back_MC)
    read_U = keys.slots_NE.unique()
    a, b = dense(keys, 60)[:, read_U], dense(staying, 60)[:, read_U]
    matrix = a.T @ a + b.T @ (gamma_M.double()[:, None] * b) + 1e-2 * torch.eye(len(read_U))
    right = a.T @ wanted_NC.double() + b.T @ (gamma_M[:, None] * back_MC).double()
    torch.testing.assert_close(got.double(), torch.linalg.solve(matrix, right), atol=1e-5, rtol=0)


def test_nothing_wanted_changes_nothing() -> None:
    keys, staying = some_reads(3, 50, 8, 1), some_reads(9, 50, 8, 2)
    x_UC, residual = WriteSystem(keys, staying, torch.ones(9)).solve(torch.zeros(3, 2))
    assert not x_UC.any()
    assert residual == 0
