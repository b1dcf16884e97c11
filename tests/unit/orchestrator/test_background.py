"""A thread with a queue: order, failures, what is due, and an end that is waited for with patience
but not for ever.
"""

from __future__ import annotations

import threading
import time

from orchestrator.background import Background

PATIENCE_S = 10.0


def test_pieces_are_done_in_their_order_and_the_end_waits_for_all() -> None:
    done: list[int] = []
    background = Background("test", failed=lambda err: None)
    for number in range(100):
        background.put(lambda number=number: done.append(number))
    assert background.close(PATIENCE_S)
    assert done == list(range(100))
    assert not background.is_alive


def test_a_piece_that_fails_is_told_and_the_next_one_follows() -> None:
    failures: list[Exception] = []
    done = threading.Event()
    background = Background("test", failures.append)
    background.put(lambda: 1 / 0)
    background.put(done.set)
    assert background.close(PATIENCE_S)
    assert [type(err) for err in failures] == [ZeroDivisionError]
    assert done.is_set()


def test_what_waits_is_counted_without_what_is_being_done() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        may_end.wait(PATIENCE_S)

    background = Background("test", lambda err: None)
    background.put(hold)
    assert begun.wait(PATIENCE_S)
    background.put(hold)
    assert background.num_waiting == 1
    may_end.set()
    assert background.close(PATIENCE_S)
    assert background.num_waiting == 0


def test_what_is_due_is_done_while_others_wait_too() -> None:
    background: Background
    turns: list[int] = []
    enough = threading.Event()

    def again() -> None:  # the queue is never empty
        time.sleep(0.001)
        if not enough.is_set():
            background.put(again)

    def every() -> None:
        turns.append(1)
        if len(turns) == 3:
            enough.set()

    background = Background("test", lambda err: None, every=every, every_s=0.01)
    background.put(again)
    assert enough.wait(PATIENCE_S)
    assert background.close(PATIENCE_S)


def test_what_hangs_is_given_up_and_what_gets_on_is_waited_for() -> None:
    may_end = threading.Event()
    hanging = Background("test", lambda err: None)
    hanging.put(may_end.wait)
    assert not hanging.close(0.05)
    may_end.set()

    may_end, looks = threading.Event(), []

    def getting_on() -> int:
        looks.append(1)
        if len(looks) == 5:
            may_end.set()
        return len(looks)

    slow = Background("test", lambda err: None)
    slow.put(lambda: may_end.wait(PATIENCE_S))
    assert slow.close(0.02, getting_on)
    assert len(looks) >= 5
