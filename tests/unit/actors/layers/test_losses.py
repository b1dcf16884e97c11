"""The losses against loops over positions and token ids."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from actors.layers import losses

Row = list[float]


def logits(num: int = 6, vocab: int = 5, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num, vocab, generator=generator, dtype=torch.float64)


def targets(num: int = 6, vocab: int = 5) -> Tensor:
    return torch.randint(vocab, (num,), generator=torch.Generator().manual_seed(99))


def probabilities(row: Row) -> Row:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def rows(logits_NV: Tensor) -> list[Row]:
    return [probabilities(row) for row in logits_NV.tolist()]


def slow_kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_heeding(p: Row, q: Row, yields: float) -> float:
    """What the teacher p counts beside the student q."""
    has, more = (-sum(a * math.log(a) for a in row) for row in (q, p))
    return min(1.0, math.exp(yields * (has - more)))


def slow_cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> float:
    chosen = [row[y] for row, y in zip(rows(logits_NV), targets_N.tolist(), strict=True)]
    return -sum(math.log(p) for p in chosen) / len(chosen)


def test_own_is_the_mean_negative_log_probability_of_the_targets() -> None:
    assert losses.own(logits(), targets()).item() == pytest.approx(
        slow_cross_entropy(logits(), targets())
    )


def test_self_is_the_mean_negative_log_probability_of_the_targets() -> None:
    assert losses.self_(logits(), targets()).item() == pytest.approx(
        slow_cross_entropy(logits(), targets())
    )


def test_help_is_the_mean_negative_log_probability_of_the_mixture() -> None:
    assert losses.help_(logits().log_softmax(-1), targets()).item() == pytest.approx(
        slow_cross_entropy(logits(), targets())
    )


def test_kl_of_each_position_is_the_sum_over_all_tokens() -> None:
    teacher, student = logits(seed=1), logits(seed=2)
    got = losses.kl(teacher.log_softmax(-1), student.log_softmax(-1)).tolist()
    want = [slow_kl(p, q) for p, q in zip(rows(teacher), rows(student), strict=True)]
    assert got == pytest.approx(want)


def test_kl_gives_its_teacher_no_gradient() -> None:
    teacher, student = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    losses.kl(teacher, student).sum().backward()
    assert teacher.grad is None


def test_recall_is_the_mean_kl_from_data_layer_to_memory() -> None:
    teacher, student = logits(seed=1), logits(seed=2)
    want = [slow_kl(p, q) for p, q in zip(rows(teacher), rows(student), strict=True)]
    assert losses.recall(teacher, student).item() == pytest.approx(sum(want) / len(want))


@pytest.mark.parametrize("yields", [0.5, 1.0, 3.0])
def test_recall_gives_way_by_what_the_memory_is_surer_than_the_data_layer(yields: float) -> None:
    teacher, student = logits(seed=1), logits(seed=2)
    pairs = list(zip(rows(teacher), rows(student), strict=True))
    counted = [slow_heeding(p, q, yields) for p, q in pairs]
    assert min(counted) < 0.9
    assert max(counted) == 1.0
    want = sum(w * slow_kl(p, q) for w, (p, q) in zip(counted, pairs, strict=True)) / len(pairs)
    assert losses.recall(teacher, student, yields).item() == pytest.approx(want)


def test_a_data_layer_that_is_sure_of_something_else_is_followed_in_full() -> None:
    sure, sure_of_another = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    unsure = torch.zeros(1, 2)
    plain = losses.recall(sure_of_another, sure).item()
    assert losses.recall(sure_of_another, sure, 1.0).item() == pytest.approx(plain)
    assert losses.recall(unsure, sure, 1.0).item() < 0.6 * losses.recall(unsure, sure).item()


def test_how_far_recall_gives_way_is_no_reason_to_be_surer() -> None:
    teacher, student = logits(seed=1), logits(seed=2).requires_grad_()
    losses.recall(teacher, student, 1.0).backward()
    pairs = zip(rows(teacher), rows(student.detach()), strict=True)
    counted_N1 = torch.tensor([[slow_heeding(p, q, 1.0)] for p, q in pairs], dtype=torch.float64)
    want = counted_N1 * (student.softmax(-1) - teacher.softmax(-1)).detach() / len(student)
    torch.testing.assert_close(student.grad, want)


def test_recall_gives_the_data_layer_no_gradient() -> None:
    teacher, student = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    losses.recall(teacher, student).backward()
    assert teacher.grad is None


def test_the_gradient_of_recall_is_the_difference_of_the_distributions() -> None:
    teacher, student = logits(seed=1), logits(seed=2).requires_grad_()
    losses.recall(teacher, student).backward()
    want = (student.softmax(-1) - teacher.softmax(-1)).detach() / len(student)
    torch.testing.assert_close(student.grad, want)


def test_balance_equals_its_formula() -> None:
    scores = logits(2 * 3 * 2, 4).view(2, 3, 2, 4)  # 2 sides, 3 positions, 2 heads, 4 half keys
    total = 0.0
    for side in range(2):
        for head in range(2):
            uses = [probabilities(scores[side, n, head].tolist()) for n in range(3)]
            mean = [sum(column) / 3 for column in zip(*uses, strict=True)]
            total += math.log(4) + sum(p * math.log(p) for p in mean)
    assert losses.balance(scores).item() == pytest.approx(total / 4)


def test_balance_is_zero_where_choosy_tokens_use_all_keys_evenly() -> None:
    scores = 100 * torch.eye(6, dtype=torch.float64).view(1, 6, 1, 6).expand(2, 6, 3, 6)
    assert losses.balance(scores).item() == pytest.approx(0, abs=1e-12)


def test_balance_is_the_log_of_the_number_of_keys_where_one_takes_all() -> None:
    scores = torch.zeros(2, 5, 3, 6, dtype=torch.float64)
    scores[..., 2] = 100
    assert losses.balance(scores).item() == pytest.approx(math.log(6))


def test_lowering_balance_spreads_the_use() -> None:
    scores = torch.zeros(2, 5, 1, 4)
    scores[..., 0] = 1
    scores.requires_grad_()
    losses.balance(scores).backward()
    assert scores.grad is not None
    assert bool((scores.grad[..., 0] > 0).all())
    assert bool((scores.grad[..., 1:] < 0).all())


def test_the_text_counts_less_the_surer_the_data_layer_is_of_something_else() -> None:
    logits_NV = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [1 / 3] * 3]).log()
    counted_N = losses.text_weights(logits_NV, torch.tensor([0, 1, 2]), 0.8)
    assert counted_N.tolist() == pytest.approx([1.0, 1 - 0.8 * 0.5, 1.0])


def test_a_position_that_counts_half_gives_half_its_loss_and_is_still_counted() -> None:
    logits_NV, targets_N = torch.randn(3, 5), torch.tensor([0, 4, 2])
    each_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    got = losses.self_(logits_NV, targets_N, torch.tensor([1.0, 0.5, 0.0]))
    assert float(got) == pytest.approx(float(each_N[0] + 0.5 * each_N[1]) / 3, rel=1e-5)


def test_what_a_teacher_says_is_worked_out_once_and_gives_every_loss_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(4)
    said, student = (torch.randn(7, 11, generator=generator) for _ in range(2))
    targets_N = torch.randint(11, (7,), generator=generator)
    teacher = losses.Teacher.of(said)
    assert losses.Teacher.of(teacher) is teacher
    for num in (7, 4):
        mine, theirs = teacher.first(num), said[:num]
        recalled = (losses.recall(each, student[:num], 1.0) for each in (mine, theirs))
        assert torch.equal(*recalled)
        assert torch.equal(
            losses.text_weights(mine, targets_N[:num], 0.8),
            losses.text_weights(theirs, targets_N[:num], 0.8),
        )
