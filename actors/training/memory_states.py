"""Hidden states of one pass of the memory's step, and the predictions made of them, all at once or
in parts.

    tokens -> states of the whole pass, (N, D) each -> predictions of some positions -> losses

The states are small; logits exist for one part at a time. Balance, the loss of a pass as a whole,
is the trainer's, which calls this.

Where only answers are learned, nothing but `losses.given` teaches the memory how a document begins,
so that it can write: positions before a token that is only given come after the others.

Shapes: N positions that have something to predict, M leading ones of them, P these and those of
given tokens, B sequences, T tokens, D memory width, H the data layer's, V token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.layers import losses
from actors.layers.batch import Batch
from actors.layers.memory_layer import MemoryLayer
from actors.layers.predicted import FewLikeliest, Predicted, Teacher
from actors.machine.device import to_device
from actors.operators.parts import Cut, leading, parts_of
from actors.settings.run import LossWeights
from actors.training.passes import MemoryPass, TermCounts
from actors.training.terms import MemoryTerms, Term

Cost = Callable[[str], AbstractContextManager[None]]
Ask = Callable[[slice], Teacher | FewLikeliest]  # what a teacher says at some of the positions


def given_positions(
    part: Batch, is_text_B: npt.NDArray[np.bool_], num_sequences: int
) -> npt.NDArray[np.bool_]:
    """Where a given token of real text comes next, (B, T), in the first `num_sequences`."""
    given_BT = part.given_BT & is_text_B[:, None]
    given_BT[num_sequences:] = False
    return given_BT


@dataclass(frozen=True)
class Measures:
    """What surrounds the work of a pass.

    Attributes:
        cost: adds a block's seconds to those of a part of the step.
        autocast: the precision of forward passes.
    """

    cost: Cost
    autocast: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class MemoryStates:
    """What the predictions of a pass are made of.

    Attributes:
        memory: the layer that learns.
        weights: of the losses.
        measures: around the work.
        num_tokens: of the pass, padding included.
        positions_at_once: positions whose logits are made at a time.
        targets_P: the text's tokens.
        is_text_N: whether a position is of real text.
        u_PD: encodings.
        y_PD: what was read.
        num_global: positions of each loss in the global batch.
        num_recall: leading positions at which recall is computed.
        ask: what the data layer says where recall is computed.
    """

    memory: MemoryLayer
    weights: LossWeights
    measures: Measures
    num_tokens: int
    positions_at_once: int
    targets_P: Tensor
    is_text_N: npt.NDArray[np.bool_]
    u_PD: Tensor
    y_PD: Tensor
    num_global: TermCounts
    num_recall: int
    ask: Ask

    @property
    def at_once(self) -> bool:
        """Whether the pass has one part."""
        return self.num_tokens <= self.positions_at_once

    def parts(self) -> Iterator[slice]:
        """The positions in parts."""
        return parts_of(len(self.targets_P), self.positions_at_once)

    def cut(self) -> tuple[MemoryStates, Cut]:
        """The same, cut off the graph that made the states."""
        cut = Cut(self.u_PD, self.y_PD)
        u_PD, y_PD = cut.leaves
        return replace(self, u_PD=u_PD, y_PD=y_PD), cut

    def predictions(self, some: slice) -> MemoryPass:
        """What is predicted at some positions."""
        cost, autocast = self.measures.cost, self.measures.autocast
        targets_P, in_parts = self.targets_P[some], not self.at_once
        learned = leading(len(self.is_text_N), some)
        targets_N = targets_P[: (num := _length(learned))]
        with cost("student"), autocast():
            logits_PV = self.memory.predict(self.y_PD[some], in_parts)
        taught = leading(self.num_recall, some)
        teachers: dict[str, Teacher | FewLikeliest] = {}
        if num_taught := _length(taught):
            with cost("teacher"), torch.no_grad(), autocast():
                teachers["data"] = self.ask(taught)
        num_entropies = num_taught if self.weights.recall_yields else 0
        predicted = Predicted(logits_PV, targets_P, teachers, num_entropies)
        guess = None
        if self.weights.encoder > 0 and self.u_PD.requires_grad:  # not where nothing of it trains
            with cost("encoder"), autocast():
                guess_PV = self.memory.guess(self.u_PD[some], in_parts)
            guess = Predicted(guess_PV, targets_P, teachers, num_entropies)
        is_text_N = self.is_text_N[learned]
        return MemoryPass(
            u_ND=self.u_PD[learned],
            y_ND=self.y_PD[learned],
            predicted=predicted,
            guess=guess,
            teachers=teachers,
            num_positions=TermCounts(
                self_=int(is_text_N.sum()),
                given=len(targets_P) - num,
                recall=num_taught,
            ),
            num_global=self.num_global,
            text_at=None if is_text_N.all() else self._places(is_text_N),
            text_weight_N=self._text_weights(teachers, targets_N),
        )

    def _places(self, where_N: npt.NDArray[np.bool_]) -> Tensor:
        return to_device(torch.from_numpy(np.flatnonzero(where_N)), self.targets_P.device)

    def _text_weights(
        self, teachers: dict[str, Teacher | FewLikeliest], targets_N: Tensor
    ) -> Tensor | None:
        """Weight of each position in self; None: all 1."""
        if not (strength := self.weights.self_yields) or "data" not in teachers:
            return None
        teacher = teachers["data"]
        assert isinstance(teacher, Teacher)  # who says a few likeliest ids does not say them all
        weight_N = torch.ones(len(targets_N), device=targets_N.device)
        weight_N[: len(teacher)] = losses.text_weights(teacher, targets_N[: len(teacher)], strength)
        return weight_N


def _length(some: slice) -> int:
    return int(some.stop) - int(some.start)


def terms_of(given: MemoryPass, weights: LossWeights, cost: Cost) -> MemoryTerms:
    """All but balance, each this part's share of a mean over the batch.

    Args:
        given: predictions and counts.
        weights: of the losses.
        cost: adds a block's seconds to those of a part of the step.
    """
    terms = _of(given, given.predicted, weights, cost)
    if given.guess is not None:
        encoder = _of(given, given.guess, weights, cost).loss()
        value = given.y_ND.new_zeros(()) if encoder is None else encoder
        terms = replace(terms, encoder=Term(value, weights.encoder))
    if num := given.num_positions.given:
        share = num / given.num_global.given
        learned = Term(_given(given.predicted, num) * share, weights.given)
        terms = replace(terms, given=learned)
        if given.guess is not None:
            guessed = _given(given.guess, num) * share
            terms = replace(terms, given_encoder=Term(guessed, weights.given * weights.encoder))
    return terms


def _given(predicted: Predicted, num: int) -> Tensor:
    """Loss of given tokens, whose positions are the last ones."""
    return losses.own_of(predicted.nll_N[-num:])


def _of(given: MemoryPass, predicted: Predicted, weights: LossWeights, cost: Cost) -> MemoryTerms:
    """Self and recall of a prediction."""
    terms = MemoryTerms()
    if weights.self_ > 0 and (num := given.num_positions.self_):
        nll_N, weight_N = predicted.nll_N[: len(given.y_ND)], given.text_weight_N
        if (at := given.text_at) is not None:
            nll_N = nll_N.index_select(0, at)
            weight_N = None if weight_N is None else weight_N.index_select(0, at)
        self_ = losses.self_of(nll_N, weight_N) * (num / given.num_global.self_)
        terms = replace(terms, self_=Term(self_, weights.self_))
    if num := given.num_positions.recall:
        with cost("recall"):
            (kl_M,) = predicted.kl(num, "data")
            weight_M = _teacher_weights(given, predicted, num, weights.recall_yields)
            recall = (weight_M * kl_M).mean() * (num / given.num_global.recall)
        terms = replace(terms, recall=Term(recall, weights.recall))
    return terms


def _teacher_weights(given: MemoryPass, predicted: Predicted, num: int, strength: float) -> Tensor:
    """As `losses.teacher_weights`, of the first positions."""
    teacher_M = given.teachers["data"].first(num).entropy_N
    if strength == 0:
        return torch.ones_like(teacher_M)
    return losses.teacher_weights_of(teacher_M, predicted.entropy(num), strength)
