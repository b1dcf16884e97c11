"""Nodes that are lost at every moment of a run, on a cluster that keeps snapshots where they were
published: every run ends, and does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest

from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from actors.wire import Order
from orchestrator.errors import GroupFailedError, LostObjectError
from orchestrator.loop.coordinator import Coordinator, TrainedPair
from orchestrator.loop.events import Committed, Evaluated, Event, Failed, Restarted
from orchestrator.loop.exchange import GroupCheckpoint, Version
from tests.unit.orchestrator.loop.test_recovery import saved
from tests.unit.orchestrator.scripted import (
    Clock,
    RecordingListener,
    a_config,
    a_version,
    an_evaluation,
    committed,
)

INTERVALS = 4
LIMIT = 150  # looks at the cluster; an undisturbed run takes some twenty
RESTART, EVALUATION = 3, 2  # looks that they take
PACES = [{DATA: 1, MEMORY: 3}, {DATA: 2, MEMORY: 1}]  # looks that an interval takes
DIED = GroupFailedError("its node is gone")
ABSENT = LostObjectError("ObjectLostError")


@dataclass(frozen=True)
class Loss:
    """A group's node is lost.

    Attributes:
        at: before that look at the cluster.
        group: whose.
        noticed: the group's new start finds the node gone; else only who misses a snapshot does.
        failing_starts: so many new starts fail before one succeeds.
    """

    at: int
    group: str
    noticed: bool = True
    failing_starts: int = 0


@dataclass
class LosingCluster:
    """Implements `ClusterPort`. Checkpoints are on storage; snapshots are where their group is."""

    losses: tuple[Loss, ...]
    pace: Mapping[str, int]
    clock: Clock = field(default_factory=Clock)
    looks: int = 0
    sent: dict[str, tuple[int, Order, int]] = field(default_factory=dict)  # and when
    restarts: dict[str, tuple[int, Restarted]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)  # when a group's last regular interval ended
    dead: set[str] = field(default_factory=set)
    unnoticed: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    there: set[tuple[str, int]] = field(default_factory=lambda: {(g, 0) for g in GROUPS})
    asked: list[tuple[int, tuple[int, int]]] = field(default_factory=list)

    def first_version(self, group: str) -> Version:
        return a_version(group, 0)

    def submit(self, group: str, order: Order, peer: Version) -> None:
        assert group not in self.sent, "an interval while another runs"
        self.sent[group] = self.looks, order, peer.number

    def restart(
        self,
        group: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool = False,
    ) -> None:
        self.sent.pop(group, None)
        start = checkpoint.interval if checkpoint is not None else 0
        lost_node = group in self.dead and group not in self.unnoticed
        published = a_version(group, start) if lost_node or publish else None
        event = Restarted(group, incarnation, None, lost_node, published)
        self.restarts[group] = self.looks, event

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        self.asked.append((self.looks, (data.number, memory.number)))

    @property
    def in_process(self) -> bool:
        return False

    @property
    def evaluations_running(self) -> int:
        return len(self.asked)

    def late_beats(self) -> list[Failed]:
        return [Failed(group, 0, DIED) for group in GROUPS
                if group in self.dead and group not in self.restarts]  # fmt: skip

    def poll(self, timeout_s: float) -> list[Event]:
        self.looks += 1
        self.clock.now += 1.0
        assert self.looks < LIMIT, "the run waits for ever"
        for loss in self.losses:
            if loss.at == self.looks:
                self._lose(loss)
        events = [*self._restarted(), *self._evaluated(), *self._done()]
        return sorted(events, key=lambda event: not isinstance(event, Failed))

    def _lose(self, loss: Loss) -> None:
        self.there = {(group, number) for group, number in self.there if group != loss.group}
        self.dead.add(loss.group)
        self.failing[loss.group] = loss.failing_starts
        if not loss.noticed:
            self.unnoticed.add(loss.group)

    def _restarted(self) -> list[Event]:
        events: list[Event] = []
        for group, (since, event) in list(self.restarts.items()):
            if self.looks < since + RESTART:
                continue
            del self.restarts[group]
            if self.failing.get(group):
                self.failing[group] -= 1
                events.append(Failed(group, 0, DIED))
                continue
            self.dead.discard(group)
            if event.published is not None:
                self.there.add((group, event.published.number))
            events.append(event)
        return events

    def _evaluated(self) -> list[Event]:
        events: list[Event] = []
        for entry in list(self.asked):
            since, pair = entry
            if self.looks < since + EVALUATION:
                continue
            self.asked.remove(entry)
            lost = tuple({*zip(GROUPS, pair, strict=True)} - self.there)
            names = tuple(group for group, _ in lost)
            done = (
                Evaluated(an_evaluation(*pair)) if not lost else Evaluated(None, ABSENT, lost=names)
            )
            events.append(done)
        return events

    def _done(self) -> list[Event]:
        events: list[Event] = []
        for group, (since, order, adopted) in list(self.sent.items()):
            if group in self.dead:
                events.append(Failed(group, 0, DIED))
            elif since == self.looks - 1 and (peer_of(group), adopted) not in self.there:
                events.append(Failed(group, 0, ABSENT, missing_input=True))
            elif self.looks < since + self.pace[group]:
                continue
            else:
                events.append(self._commit(group, order, adopted))
            del self.sent[group]
        return events

    def _commit(self, group: str, order: Order, adopted: int) -> Committed:
        agreement = 0.6 if order.measure else None
        event = committed(group, order.interval, agreement=agreement,
                          peer_version=adopted, incarnation=order.incarnation)  # fmt: skip
        if order.publish:
            self.there.add((group, order.interval))
            if order.interval == INTERVALS:
                self.ends[group] = self.looks
        else:
            event = replace(event, version=None)
        return saved(event) if order.checkpoint else event

    def prepare(self, sizes: Mapping[str, int], wait_s: float) -> None:
        raise AssertionError("nothing is resized here")

    def switch(self, group: str, incarnation: int, checkpoint: GroupCheckpoint) -> None:
        raise AssertionError("nothing is resized here")


def train(
    pace: Mapping[str, int], *losses: Loss, **changes: Any
) -> tuple[LosingCluster, TrainedPair | GroupFailedError]:
    """What becomes of a run in which these nodes are lost."""
    cluster = LosingCluster(losses, pace)
    settings: dict[str, Any] = {
        "intervals": INTERVALS,
        "checkpoints": {"every": 2},
        "exchange": {"catchup_intervals": 2},
    }
    config = a_config(**settings | changes)
    listener = RecordingListener()
    coordinator = Coordinator(config, cluster, listener, lambda: None, clock=cluster.clock)
    try:
        return cluster, coordinator.run()
    except GroupFailedError as err:
        return cluster, err


def moments(pace: Mapping[str, int], **changes: Any) -> range:
    """Every look at the cluster of an undisturbed run."""
    cluster, outcome = train(pace, **changes)
    assert isinstance(outcome, TrainedPair)
    return range(1, cluster.looks + 1)


KINDS = {
    "lockstep": {},
    "a-checkpoint-at-the-end-only": {"checkpoints": {"every": 4}},
    "none-at-the-end": {"checkpoints": {"every": 3}},
    "async": {"exchange": {"mode": "async", "staleness": 2, "catchup_intervals": 2}},
    "every-second-version": {"exchange": {"publish_every": 2, "catchup_intervals": 2}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def test_a_node_may_be_lost_at_any_moment_and_a_new_start_may_fail(
    kind: str, group: str, noticed: bool
) -> None:
    for pace in PACES:
        for at, failing in product(moments(pace, **KINDS[kind]), (0, 1, 2)):
            _, outcome = train(pace, Loss(at, group, noticed, failing), **KINDS[kind])
            completes_or_says_how_to_go_on(outcome)


@pytest.mark.parametrize("kind", KINDS)
def test_both_nodes_may_be_lost_at_any_two_moments(kind: str) -> None:
    for pace in PACES:
        there = moments(pace, **KINDS[kind])
        for first, second, noticed in product(there, there, (True, False)):
            losses = Loss(first, DATA, noticed), Loss(second, MEMORY, noticed)
            completes_or_says_how_to_go_on(train(pace, *losses, **KINDS[kind])[1])


def completes_or_says_how_to_go_on(outcome: TrainedPair | GroupFailedError) -> None:
    if isinstance(outcome, TrainedPair):
        assert outcome.data.number == INTERVALS
        assert outcome.catch_up.reflects_final
    else:
        assert "was lost with its node, and the group's newest checkpoint is that" in str(outcome)
        assert "go on with: tandem resume" in str(outcome)


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def test_after_the_last_checkpoint_of_both_groups_no_lost_node_ends_a_run(noticed: bool) -> None:
    for pace in PACES:
        undisturbed, _ = train(pace)
        late = range(max(undisturbed.ends.values()) + 1, undisturbed.looks + 1)
        for at, group in product(late, GROUPS):
            _, outcome = train(pace, Loss(at, group, noticed))
            assert isinstance(outcome, TrainedPair), f"{group} at {at}: {outcome}"
