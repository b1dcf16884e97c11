from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from actors.settings.run import DATA, GROUPS, MEMORY, ExchangeSpec
from actors.snapshots.buckets import BUCKET_BYTES
from actors.wire import Range
from orchestrator.errors import StoreTooSmallError
from orchestrator.loop.exchange import GroupCheckpoint, Pairing, RangeLog, Ring, check_fits
from orchestrator.settings.retention import Retention
from tests.unit.orchestrator.scripted import VERSION_BYTES, a_version

MIB = 2**20


def ring_with(data_versions: int, kept: int = 2, needed: Collection[int] = ()) -> Ring:
    ring = Ring(kept)
    for number in range(data_versions):
        ring.commit(a_version(DATA, number))
        ring.let_go(DATA, needed)
    return ring


def test_the_newest_version_is_the_last_one_committed() -> None:
    assert ring_with(5).newest(DATA).number == 4


def test_the_version_before_the_newest_is_kept() -> None:
    assert ring_with(5).get(DATA, 3) == a_version(DATA, 3)


def test_versions_older_than_the_rings_size_are_let_go() -> None:
    with pytest.raises(KeyError, match=r"data version 2 is not in the ring, which holds \[3, 4\]"):
        ring_with(5).get(DATA, 2)


def test_a_larger_ring_keeps_more() -> None:
    assert ring_with(5, kept=4).get(DATA, 1).number == 1


def test_the_groups_versions_are_kept_apart() -> None:
    ring = ring_with(3)
    ring.commit(a_version(MEMORY, 0))
    assert [ring.newest(group).number for group in GROUPS] == [2, 0]


def test_a_version_of_an_empty_group_is_refused_with_what_is_kept() -> None:
    with pytest.raises(KeyError, match=r"holds \[\]"):
        ring_with(3).newest(MEMORY)


@pytest.mark.parametrize("number", [0, 2])
def test_a_version_that_is_not_newer_is_refused(number: int) -> None:
    with pytest.raises(AssertionError, match=f"data: version {number} after 2"):
        ring_with(3).commit(a_version(DATA, number))


def test_what_was_let_go_still_counts_as_published() -> None:
    ring = ring_with(5)
    assert (ring.num_published, ring.num_bytes) == (5, 5 * VERSION_BYTES)


def test_older_versions_are_kept_as_long_as_a_replay_needs_them() -> None:
    ring = ring_with(7, needed={1, 3})
    assert [ring.get(DATA, n).number for n in (1, 3, 5, 6)] == [1, 3, 5, 6]
    with pytest.raises(KeyError):
        ring.get(DATA, 4)
    ring.let_go(DATA, {3})
    with pytest.raises(KeyError, match=r"holds \[3, 5, 6\]"):
        ring.get(DATA, 1)


def test_another_copy_takes_a_versions_place() -> None:
    ring = ring_with(3)
    copy = replace(a_version(DATA, 2), bucket_refs=("another",))
    ring.replace(copy)
    assert ring.newest(DATA) is copy
    assert ring.num_published == 3


def lockstep(every: int, publish_every: int = 1, recovers: bool = True) -> Retention:
    exchange = ExchangeSpec(publish_every=publish_every)
    return Retention.of(exchange, every, recovers)


@pytest.mark.parametrize(
    ("retention", "versions", "checkpoints"),
    [
        (lockstep(0), 2 + 2, 0),
        (lockstep(10, recovers=False), 2 + 2, 2),
        (lockstep(1), 2 + 2, 3),
        (lockstep(10), 2 + 9 + 2, 3),
        (lockstep(10, publish_every=5), 2 + 1 + 2, 3),
        (Retention.of(ExchangeSpec(mode="async", staleness=4), 10), 5 + 9 + 2, 3),
    ],
)
def test_the_store_holds_what_a_replay_since_the_last_checkpoint_adopts(
    retention: Retention, versions: int, checkpoints: int
) -> None:
    assert (retention.versions, retention.checkpoints) == (versions, checkpoints)
    assert retention.kept_bytes([3, 4], [5, 6]) == 7 * versions + 11 * checkpoints


@pytest.mark.parametrize("every", [1, 10, 1000])
def test_what_only_a_replay_needs_need_not_lie_in_the_store(every: int) -> None:
    assert lockstep(every).needed_bytes([3, 4], [5, 6]) == 7 * 4 + 2 * 11  # one part each
    assert lockstep(every).needed_bytes([3], [80 * MIB]) == 3 * 4 + 2 * 10 * MIB
    assert lockstep(every).needed_bytes([3], [10 * BUCKET_BYTES]) == 3 * 4 + 2 * BUCKET_BYTES


def test_a_ring_that_fits_the_store_is_accepted() -> None:
    check_fits({DATA: 10 * MIB, MEMORY: 10 * MIB}, {}, lockstep(0), 100 * MIB)


def test_checkpoints_take_their_room_too() -> None:
    saved = {DATA: MIB, MEMORY: MIB}
    with pytest.raises(StoreTooSmallError, match=r"checkpoint \(2.0 MiB\).* need 84 MiB"):
        check_fits({DATA: 10 * MIB, MEMORY: 10 * MIB}, saved, lockstep(1), 100 * MIB)


def test_more_intervals_between_checkpoints_need_no_more_room() -> None:
    check_fits({DATA: 10 * MIB, MEMORY: 10 * MIB}, {}, lockstep(40), 100 * MIB)


def test_versions_may_leave_numbers_out() -> None:
    ring = ring_with(3)
    ring.commit(a_version(DATA, 8))
    assert ring.newest(DATA).number == 8


def test_a_ring_that_does_not_fit_names_sizes_need_share_and_knob() -> None:
    with pytest.raises(StoreTooSmallError) as raised:
        check_fits({DATA: 10 * MIB, MEMORY: 11 * MIB}, {}, lockstep(0), 100 * MIB)
    message = str(raised.value)
    assert "data 10.0 MiB, memory 11.0 MiB" in message
    assert "need 84 MiB" in message
    assert "80% of the store are 80 MiB" in message
    assert "ray.object_store_mib" in message


def test_a_lost_version_is_lost_until_there_is_another_copy() -> None:
    ring = ring_with(3)
    ring.lose(DATA, 2)
    ring.lose(DATA, 0)  # let go already
    assert [ring.is_lost(DATA, n) for n in (0, 1, 2)] == [False, False, True]
    ring.replace(a_version(DATA, 2))
    assert not ring.is_lost(DATA, 2)
    assert ring.numbers(DATA) == [1, 2]


def test_a_pair_is_both_groups_checkpoints_of_one_interval() -> None:
    pairing = Pairing()

    def saved(group: str, interval: int) -> GroupCheckpoint:
        return GroupCheckpoint(group, interval, (), ())

    assert pairing.add(saved(DATA, 2)) is None
    assert pairing.add(saved(DATA, 4)) is None
    assert pairing.add(saved(MEMORY, 4)) == {g: saved(g, 4) for g in GROUPS}
    assert pairing.add(saved(MEMORY, 2)) is None  # its partner was let go


def test_ranges_are_those_between_two_versions_of_the_data_layer() -> None:
    log = RangeLog()
    for number in (1, 2, 3):
        ranges = (Range(0, 10 * number, 10 * number + 10),)
        header = replace(a_version(DATA, number).headers[0], ranges=ranges)
        log.add(replace(a_version(DATA, number), headers=(header,)))
    assert log.since(0, 2) == (Range(0, 10, 30),)
    assert log.since(2, 3) == (Range(0, 30, 40),)
    assert log.since(3, 3) == ()


def test_a_memory_that_asks_nobody_adopts_what_was_said_and_no_weights() -> None:
    weights = a_version(DATA, 2)
    said = replace(weights, said_refs=("said",))
    assert weights.adopted_refs == weights.bucket_refs
    assert said.adopted_refs == ("said",)
    assert said.num_bytes == weights.num_bytes
