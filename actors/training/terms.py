"""The losses of one pass of a step: their values, weights, and the names they are reported by.

A trainer returns `DataTerms` or `MemoryTerms`; `Trainer.learn` reports them and adds the gradients
of their weighted sum. A loss is added in three places, and nowhere else: its weight in
`actors.settings.run.LossWeights`, its field here, its `Term` in the trainer's `terms`. It is then
reported, stored and followed by trackers as `train.<field>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from actors.training.interval import Measured


@dataclass(frozen=True)
class Term:
    """One loss in one pass.

    Attributes:
        value: scalar, what is reported. The share that this pass of this rank has in a mean over
            the global batch: passes and ranks add up.
        weight: factor of `value` in the loss that is minimised.
        over_ranks: `value` is already that of all ranks, the same on each, so that neither ranks
            nor passes are added up: passes are averaged. `weight` is then that of one pass.
        reported: whether it has a name in reports; if not, it is part of the reported loss alone.
    """

    value: Tensor
    weight: float
    over_ranks: bool = False
    reported: bool = True

    @property
    def weighted(self) -> Tensor:
        """The term in the loss."""
        return self.weight * self.value


@dataclass(frozen=True)
class Terms:
    """The terms of one pass, one field each, in the order in which they are summed; None: not in
    this pass.
    """

    total: ClassVar[str] = "loss"  # the name by which the weighted sum is reported; "": not at all

    def named(self) -> Iterator[tuple[str, Term]]:
        """The terms of this pass by the names in reports: those of the fields, less the underscore
        that Python's own words need.
        """
        for field, term in vars(self).items():
            if term is not None:
                yield field.rstrip("_"), term

    def loss(self, besides: Tensor | None = None) -> Tensor | None:
        """The weighted sum, scalar, with `besides` added; None where there is nothing to add."""
        weighted = [term.weighted for _, term in self.named()]
        if besides is not None:
            weighted.append(besides)
        return sum(weighted[1:], weighted[0]) if weighted else None

    def report(self, step: Measured, num_ranks: int, num_passes: int) -> None:
        """Adds every term, and its weighted value to the loss, to what the step measured."""
        for name, term in self.named():
            if term.reported and term.over_ranks:
                step.add_metric(name, term.value, 1 / num_passes)
            elif term.reported:
                step.add_share(name, term.value)
            if self.total:
                step.add_share(self.total, term.weighted, 1 / num_ranks if term.over_ranks else 1)


@dataclass(frozen=True)
class DataTerms(Terms):
    """Losses of the data group. Source: `layers.losses`.

    Attributes:
        own: of the sequences that don't read, by the data layer alone.
        own_beyond: of the same, probability given to output rows that are no token.
        help: of the sequences that read, by the mixture of both layers.
        reader: of the same, by the data layer alone, which has the reads as input.
        read_beyond: as `own_beyond`, of the sequences that read.
    """

    own: Term | None = None
    own_beyond: Term | None = None
    help: Term | None = None
    reader: Term | None = None
    read_beyond: Term | None = None


@dataclass(frozen=True)
class MixingTerms(Terms):
    """The loss of lambda's weights, which have a pass of their own.

    Attributes:
        mixing: help on noised text; no part of the reported loss, which has help on the text.
    """

    total: ClassVar[str] = ""

    mixing: Term | None = None


@dataclass(frozen=True)
class GeneralTerms(Terms):
    """The loss of the port on general text, which has a pass of its own.

    Attributes:
        general: KL from the data layer alone to both layers, and to itself where it reads; no part
            of the reported loss, which is of the run's text.
    """

    total: ClassVar[str] = ""

    general: Term | None = None


@dataclass(frozen=True)
class MemoryTerms(Terms):
    """Losses of the memory group. Source: `layers.losses`.

    Attributes:
        balance: how uneven the use of the half keys is.
        self_: of real text, by the memory alone.
        given: of tokens of real text that are only given, by the memory alone.
        given_encoder: as `encoder`, of these tokens.
        recall: KL from the adopted data layer to the memory.
        encoder: self and recall, at their weights, of what the encoder predicts without slots.
    """

    balance: Term | None = None
    self_: Term | None = None
    given: Term | None = None
    given_encoder: Term | None = None
    recall: Term | None = None
    encoder: Term | None = None


@dataclass(frozen=True)
class LiveMemoryTerms(Terms):
    """Losses of the memory on lessons that its running run is taught, in a pass of their own.

    Attributes:
        lessons: next-token loss of the wanted answers, by the memory alone.
        lessons_recall: KL from the adopted data layer, once that was taught them.
        lessons_encoder: both, at their weights, of what the encoder predicts without slots.
    """

    lessons: Term | None = None
    lessons_recall: Term | None = None
    lessons_encoder: Term | None = None


@dataclass(frozen=True)
class TeachingDataTerms(Terms):
    """Losses of the data group where it is taught lessons, reads off.

    Attributes:
        lessons: next-token loss of the wanted answers, as they were given.
        reworded: the same in wordings that the memory knows.
        rehearsed: KL from the data layer before teaching, on text that the memory wrote.
    """

    lessons: Term | None = None
    reworded: Term | None = None
    rehearsed: Term | None = None


@dataclass(frozen=True)
class TeachingMemoryTerms(Terms):
    """Losses of the memory group that follows a data layer which is taught.

    Attributes:
        balance: as in `MemoryTerms`.
        self_: of the wanted answers, by the memory alone.
        recall: KL from the adopted data layer, on lessons and on text that the memory wrote.
        encoder: both, at their weights, of what the encoder predicts without slots.
        kept: KL from the memory before teaching, on text that it wrote.
    """

    balance: Term | None = None
    self_: Term | None = None
    recall: Term | None = None
    encoder: Term | None = None
    kept: Term | None = None
