"""One pass on lessons, of each group: hidden states once, then logits, losses and their gradients
for some positions after the others, so that no more of them exist at a time than
`RunSpec.logit_tokens` allows.

Shared by the trainers of runs that teach and by those of runs that are taught while they go on.

Shapes: B sequences, T tokens, N positions that have something to predict, M of text that is no
lesson, D memory width, H the data layer's, V token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from actors.layers.batch import Batch, hidden_at, read_at_valid, rows_at, to_batch
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.layers.predicted import Predicted, Teacher
from actors.lessons.live_lessons import LiveLessons
from actors.operators.parts import Cut, parts_of
from actors.settings.run import LossWeights
from actors.training.memory_states import Measures
from actors.training.terms import LiveMemoryTerms, TeachingDataTerms, TeachingMemoryTerms, Term


def lesson_batch(live: LiveLessons, step: int) -> Batch | None:
    """What a run that goes on is taught in a step, in host memory; None: it is taught nothing."""
    return to_batch(live.batch(step), torch.device("cpu")) if live.lessons else None


def kinds_in_parts(bounds: Sequence[int], size: int) -> Iterator[tuple[int, slice]]:
    """Positions in parts of `size` at most, none of which crosses a bound, with the number of the
    kind between two bounds.
    """
    for kind, (first, stop) in enumerate(pairwise(bounds)):
        for some in parts_of(stop - first, size):
            yield kind, slice(first + some.start, first + some.stop)


@dataclass(frozen=True)
class TaughtPass:
    """A pass of the data layer on lessons as given, in other wordings, and on text, in this order.

    Attributes:
        layer: that is taught, reads off.
        reference: the data layer before; None: there is no text.
        part: the sequences.
        text: those of them that are text.
        bounds: where each kind begins among the positions, and where the last ends.
        num_global: positions of each kind in the global batch.
        rehearse: weight of what keeps the old, on text.
        measures: around the work.
    """

    layer: DataLayer
    reference: DataLayer | None
    part: Batch
    text: Batch
    bounds: Sequence[int]
    num_global: Sequence[int]
    rehearse: float
    measures: Measures

    def terms(self) -> Iterator[tuple[TeachingDataTerms, Cut | None]]:
        """The losses of each part, to be learned before the next is asked for; at last none, with
        where their gradients go on.
        """
        cost, autocast = self.measures.cost, self.measures.autocast
        with cost("forward"), autocast():
            cut = Cut(hidden_at(self.layer, self.part))
        (states_NH,) = cut.leaves
        text_at, before_MH = self.bounds[2], states_NH[:0]
        if self.text.num_valid:
            assert self.reference is not None
            with cost("reference"), torch.no_grad(), autocast():
                before_MH = hidden_at(self.reference, self.text)
        for kind, some in kinds_in_parts(self.bounds, self.layer.positions_at_once):
            with cost("forward"), autocast():
                logits_NV, _ = self.layer.outputs_at(states_NH[some], True)
            targets_N, num = self.part.targets_N[some], self.num_global[kind]
            if kind < 2:
                value = Predicted(logits_NV, targets_N).nll_N.sum() / num
                name = ("lessons", "reworded")[kind]
                yield TeachingDataTerms(**{name: Term(value, 1.0)}), None
                continue
            assert self.reference is not None
            here = slice(some.start - text_at, some.stop - text_at)
            with cost("reference"), torch.no_grad(), autocast():
                before = Teacher.fused(self.reference.logits_at(before_MH[here]))
            (kl_M,) = Predicted(logits_NV, targets_N, {"before": before}).kl(
                len(targets_N), "before"
            )
            yield TeachingDataTerms(rehearsed=Term(kl_M.sum() / num, self.rehearse)), None
        yield TeachingDataTerms(), cut


class FollowedPass:
    """A pass of the memory on lessons, then on text that is none.

    Args:
        memory, teacher: what follows, and the adopted data layer.
        kept: the memory before, which it stays near on text; None: it does not.
        part, text: the sequences, and those of them that are text.
        at: positions of lessons, which come first.
        num_lessons, num_text: positions of both kinds in the global batch.
        weights: of self, recall and encoder.
        keep: weight of what keeps the old, on text.
        recalls_lessons: whether the data layer was taught the lessons.
        measures: around the work.

    Attributes:
        side_scores: of the half keys, for balance.
        cut: where the gradients go on, once `terms` has come to its end.
    """

    def __init__(
        self,
        memory: MemoryLayer,
        teacher: DataLayer,
        kept: MemoryLayer | None,
        part: Batch,
        text: Batch,
        at: int,
        num_lessons: int,
        num_text: int,
        weights: LossWeights,
        keep: float,
        recalls_lessons: bool,
        measures: Measures,
    ) -> None:
        self._memory, self._teacher, self._kept, self._part = memory, teacher, kept, part
        self._at, self._num = at, (num_lessons, num_text)
        self._weights, self._keep, self._recalls_lessons = weights, keep, recalls_lessons
        self._measures = measures
        cost, autocast = measures.cost, measures.autocast
        with cost("student"), autocast():
            u_BTD, _ = memory.encode(
                part.tokens_BT, part.segments_BT, one_document=part.one_document
            )
            u_ND = rows_at(u_BTD, part.valid_at_N)
            read = memory.read_at(u_ND)
        self.side_scores, self.cut = read.side_scores, Cut(u_ND, read.y)
        with cost("teacher"), torch.no_grad(), autocast():
            self._taught_NH = hidden_at(teacher, part)
        self._before_MD = read.y[:0]
        if kept is not None and text.num_valid:
            with cost("reference"), torch.no_grad(), autocast():
                if u_ND.requires_grad:
                    self._before_MD = read_at_valid(kept, text)
                else:  # encoder and keys are those of before
                    self._before_MD = kept.read_at(u_ND[at:]).y

    def terms(self) -> Iterator[TeachingMemoryTerms]:
        """The losses of each part, to be learned before the next is asked for."""
        cost, autocast = self._measures.cost, self._measures.autocast
        u_ND, y_ND = self.cut.leaves
        for kind, some in kinds_in_parts((0, self._at, len(u_ND)), self._teacher.positions_at_once):
            is_text, targets_N = kind == 1, self._part.targets_N[some]
            with cost("teacher"), torch.no_grad(), autocast():
                teachers = {"data": Teacher.fused(self._teacher.logits_at(self._taught_NH[some]))}
            of_encoder = dict(teachers)
            if is_text and len(self._before_MD):
                assert self._kept is not None
                here = slice(some.start - self._at, some.stop - self._at)
                with cost("reference"), torch.no_grad(), autocast():
                    teachers["kept"] = Teacher.fused(self._kept.predict(self._before_MD[here]))
            with cost("student"), autocast():
                logits_NV = self._memory.predict(y_ND[some], True)
            found = Predicted(logits_NV, targets_N, teachers)
            terms = self._followed(found, is_text, len(targets_N))
            if "kept" in teachers:
                (kl_N,) = found.kl(len(targets_N), "kept")
                terms = replace(terms, kept=Term(kl_N.sum() / self._num[1], self._keep))
            if self._weights.encoder > 0 and u_ND.requires_grad:
                with cost("encoder"), autocast():
                    guess_NV = self._memory.guess(u_ND[some], True)
                guess = Predicted(guess_NV, targets_N, of_encoder)
                guessed = self._followed(guess, is_text, len(targets_N)).loss()
                if guessed is not None:
                    terms = replace(terms, encoder=Term(guessed, self._weights.encoder))
            yield terms

    def _followed(self, found: Predicted, is_text: bool, num: int) -> TeachingMemoryTerms:
        """Self of lessons, recall of both, each the part's share of a mean over the batch."""
        terms, weights = TeachingMemoryTerms(), self._weights
        if not is_text:
            own = found.nll_N.sum() / self._num[0]
            terms = replace(terms, self_=Term(own, weights.self_))
        if is_text or self._recalls_lessons:
            num_global = self._num[1] + (self._num[0] if self._recalls_lessons else 0)
            (kl_N,) = found.kl(num, "data")
            terms = replace(terms, recall=Term(kl_N.sum() / num_global, weights.recall))
        return terms


def live_terms(
    memory: MemoryLayer,
    teacher: DataLayer,
    part: Batch,
    num: int,
    weights: LossWeights,
    recalls: bool,
    measures: Measures,
) -> Iterator[tuple[LiveMemoryTerms, Cut | None]]:
    """The losses of a memory's pass on lessons of a run that goes on; as `TaughtPass.terms`.

    Args:
        num: their positions in the global batch.
        recalls: whether the adopted data layer was taught them.
    """
    of_part = memory, teacher, None, part, part.rows(slice(0, 0)), part.num_valid
    followed = FollowedPass(*of_part, num, 0, weights, 0.0, recalls, measures)
    for terms in followed.terms():
        yield LiveMemoryTerms(terms.self_, terms.recall, terms.encoder), None
    yield LiveMemoryTerms(), followed.cut
