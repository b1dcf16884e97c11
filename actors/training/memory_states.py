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
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.layers.mixture import Mixture, both_at
from actors.layers.predicted import (
    NO_TEACHERS,
    Cut,
    Predicted,
    Teacher,
    Teachers,
    leading,
    parts_of,
)
from actors.machine.device import to_device
from actors.settings.run import LossWeights
from actors.training.passes import MemoryPass, Synced, TermCounts
from actors.training.terms import MemoryTerms, Term

Cost = Callable[[str], AbstractContextManager[None]]


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
class SyncStates:
    """What sync compares the adopted data layer and the memory with.

    Attributes:
        ref, ref_MH: the data layer when the memory last trained, and its states.
        before, before_MD: the memory at the start of the interval, and what it read.
    """

    ref: DataLayer
    ref_MH: Tensor
    before: MemoryLayer
    before_MD: Tensor


@dataclass(frozen=True)
class MemoryStates:
    """What the predictions of a pass are made of.

    Attributes:
        memory, data: the memory, and the adopted data layer.
        weights: of the losses.
        measures: around the work.
        num_tokens: of the pass, padding included.
        targets_P: the text's tokens.
        is_text_N: whether a position is of real text.
        u_PD: encodings.
        y_PD: what was read.
        num_global: positions of each loss in the global batch.
        num_recall: leading positions at which recall is computed.
        taught_MH: states of the adopted data layer where recall or sync is computed.
        sync: None: it is not computed here.
        assisted: states of the data layer that reads, and what it reads, where assist is computed.
    """

    memory: MemoryLayer
    data: DataLayer
    weights: LossWeights
    measures: Measures
    num_tokens: int
    targets_P: Tensor
    is_text_N: npt.NDArray[np.bool_]
    u_PD: Tensor
    y_PD: Tensor
    num_global: TermCounts
    num_recall: int
    taught_MH: Tensor
    sync: SyncStates | None = None
    assisted: tuple[Tensor, Tensor] | None = None

    @property
    def at_once(self) -> bool:
        """Whether the pass has one part."""
        return self.num_tokens <= self.data.positions_at_once

    @property
    def num_sync(self) -> int:
        """Leading positions at which sync is computed."""
        return 0 if self.sync is None else len(self.sync.before_MD)

    def parts(self, num: int | None = None) -> Iterator[slice]:
        """The first `num` positions, or all, in parts."""
        num = len(self.targets_P) if num is None else num
        return parts_of(num, max(1, num) if self.at_once else self.data.positions_at_once)

    def cut(self) -> tuple[MemoryStates, Cut]:
        """The same, cut off the graph that made the states."""
        cut = Cut(self.u_PD, self.y_PD, *(self.assisted or ()))
        u_PD, y_PD, *assisted = cut.leaves
        pair = (assisted[0], assisted[1]) if assisted else None
        return replace(self, u_PD=u_PD, y_PD=y_PD, assisted=pair), cut

    def changes(self, teachers: Teachers = NO_TEACHERS) -> tuple[Tensor, Tensor]:
        """`changed_N` and `agreed_N` of `losses.SyncParts` where sync is computed.

        Args:
            teachers: of a pass with one part, as `predictions` made them.
        """
        found = [torch.stack((nothing := self.y_PD.new_zeros(0), nothing))]
        if self.sync is not None:
            for some in self.parts(self.num_sync):
                with self.measures.autocast(), torch.no_grad():
                    ref_NV = self.sync.ref.logits_at(self.sync.ref_MH[some])
                    if self.at_once:
                        teacher = teachers["data"].first(self.num_sync)
                        best_N = teachers["before"].logp_NV.argmax(-1)
                    else:
                        teacher = Teacher.of(self.data.logits_at(self.taught_MH[some]))
                        best_N = self.sync.before.predict(self.sync.before_MD[some]).argmax(-1)
                found.append(torch.stack(losses.changes(teacher, ref_NV, best_N)))
        changed_M, agreed_M = torch.cat(found, dim=1)
        return changed_M, agreed_M

    def predictions(self, some: slice, synced: Synced | None = None) -> MemoryPass:
        """What is predicted at some positions; `synced`: of all positions of sync."""
        cost, autocast = self.measures.cost, self.measures.autocast
        taught_by = Teacher.of if self.at_once else Teacher.fused
        targets_P, in_parts = self.targets_P[some], not self.at_once
        learned = leading(len(self.is_text_N), some)
        targets_N = targets_P[: (num := _length(learned))]
        with cost("student"), autocast():
            logits_PV = self.memory.predict(self.y_PD[some], in_parts)
        taught, here = leading(len(self.taught_MH), some), leading(self.num_sync, some)
        teachers: dict[str, Teacher] = {}
        if num_taught := _length(taught):
            with cost("teacher"), torch.no_grad(), autocast():
                teachers["data"] = taught_by(self.data.logits_at(self.taught_MH[taught]))
        of_encoder = dict(teachers)
        if self.sync is not None and _length(here):
            with cost("sync"), torch.no_grad(), autocast():
                teachers["before"] = taught_by(self.sync.before.predict(self.sync.before_MD[here]))
        num_entropies = num_taught if self.weights.recall_yields else 0
        predicted = Predicted(logits_PV, targets_P, teachers, num_entropies)
        guess = None
        if self.weights.encoder > 0 and self.u_PD.requires_grad:  # not where nothing of it trains
            with cost("encoder"), autocast():
                guess_PV = self.memory.guess(self.u_PD[some], in_parts)
            guess = Predicted(guess_PV, targets_P, of_encoder, num_entropies)
        is_text_N = self.is_text_N[learned]
        num_assist = 0 if self.assisted is None else len(self.assisted[0])
        return MemoryPass(
            u_ND=self.u_PD[learned],
            y_ND=self.y_PD[learned],
            predicted=predicted,
            guess=guess,
            teachers=teachers,
            num_positions=TermCounts(
                self_=int(is_text_N.sum()),
                given=len(targets_P) - num,
                recall=_length(leading(self.num_recall, some)),
                sync=_length(here),
                assist=_length(leading(num_assist, some)),
            ),
            num_global=self.num_global,
            text_at=None if is_text_N.all() else self._places(is_text_N),
            text_weight_N=self._text_weights(teachers, targets_N),
            synced=synced.at(here) if synced is not None and _length(here) else None,
            assisted=self._assist(some),
        )

    def _places(self, where_N: npt.NDArray[np.bool_]) -> Tensor:
        return to_device(torch.from_numpy(np.flatnonzero(where_N)), self.targets_P.device)

    def _text_weights(self, teachers: dict[str, Teacher], targets_N: Tensor) -> Tensor | None:
        """Weight of each position in self; None: all 1."""
        if not (strength := self.weights.self_yields) or "data" not in teachers:
            return None
        teacher = teachers["data"]
        weight_N = torch.ones(len(targets_N), device=targets_N.device)
        weight_N[: len(teacher)] = losses.text_weights(teacher, targets_N[: len(teacher)], strength)
        return weight_N

    def _assist(self, some: slice) -> Mixture | None:
        """Both layers together, the data layer frozen, where assist is computed."""
        if self.assisted is None:
            return None
        hidden_MH, y_MD = self.assisted
        here = leading(len(hidden_MH), some)
        if not _length(here):
            return None
        with self.measures.cost("assist"), self.measures.autocast():
            given = hidden_MH[here], y_MD[here], self.targets_P[here]
            return both_at(self.data, self.memory, *given, not self.at_once).mixture


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
    if given.synced is not None:
        with cost("sync"):
            terms = replace(terms, sync=_sync(given, given.synced, weights))
    if given.assisted is not None:
        share = given.num_positions.assist / given.num_global.assist
        assist = losses.own_of(-given.assisted.logp) * share
        terms = replace(terms, assist=Term(assist, weights.assist))
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


def _sync(given: MemoryPass, synced: Synced, weights: LossWeights) -> Term:
    """Sync of the memory's prediction."""
    num, predicted = given.num_positions.sync, given.predicted
    follow_M, stay_M = predicted.kl(num, "data", "before")
    weight_M = _teacher_weights(given, predicted, num, weights.recall_yields)
    parts = losses.SyncParts(synced.changed_M, weight_M, follow_M, synced.agreed_M, stay_M)
    sync = parts.weighted(synced.median).mean() * (num / given.num_global.sync)
    return Term(sync, weights.sync)
