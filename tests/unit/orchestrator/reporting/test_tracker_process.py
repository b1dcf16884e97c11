"""What a tracker's process does with its messages, the backends replaced by a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.reporting.tracker_process import RETRY_S, relay
from tests.unit.orchestrator.scripted import Clock

OPENING = {"name": "run"}


@dataclass
class Server:
    """A tracker that is down for as long as `down` holds calls to fail."""

    down: set[int] = field(default_factory=set)  # numbers of the calls that fail
    calls: int = 0
    got: list[Any] = field(default_factory=list)
    failures: list[tuple[str, int]] = field(default_factory=list)

    def _call(self, what: Any) -> None:
        number, self.calls = self.calls, self.calls + 1
        if number in self.down:
            raise ConnectionError(f"call {number} refused\nand more")
        self.got.append(what)

    def start(self, opening: dict[str, Any]) -> Server:
        self._call(("start", opening["name"]))
        return self

    def log(self, row: dict[str, Any]) -> None:
        self._call(row["step"])

    def end(self, status: str) -> None:
        self._call(status)

    def failed(self, message: str, lost: int) -> None:
        self.failures.append((message, lost))


def rows(*steps: int) -> list[dict[str, Any]]:
    return [{"axis": "data", "figures": {}, "step": step, "at": 0.0} for step in steps]


def play(server: Server, messages: Sequence[dict[str, Any]], pause_s: float = 0.0) -> Server:
    """The messages, so many seconds apart."""
    clock = Clock()

    def ticking() -> Any:
        for message in messages:
            yield message
            clock.now += pause_s

    relay(ticking(), server.start, server.failed, clock)
    return server


def test_messages_arrive_in_order_and_the_status_last() -> None:
    server = play(Server(), [OPENING, *rows(1, 2), {"status": "finished"}])
    assert server.got == [("start", "run"), 1, 2, "finished"]
    assert server.failures == []


def test_a_driver_that_is_gone_leaves_a_failed_run() -> None:
    assert play(Server(), [OPENING, *rows(1)]).got == [("start", "run"), 1, "failed"]


def test_no_message_at_all_opens_nothing() -> None:
    assert play(Server(), []).calls == 0


def test_a_server_that_failed_is_left_alone_for_a_while() -> None:
    server = play(Server(down={1}), [OPENING, *rows(1, 2, 3)], pause_s=1.0)
    assert server.failures == [("call 1 refused", 1)] + 2 * [("it failed a moment ago", 1)]


def test_after_a_while_rows_are_sent_again() -> None:
    server = play(Server(down={1}), [OPENING, *rows(1, 2, 3)], pause_s=RETRY_S + 1)
    assert server.got == [("start", "run"), 2, 3, "failed"]


def test_a_run_that_could_not_be_opened_is_opened_later() -> None:
    server = play(Server(down={0}), [OPENING, *rows(1, 2)], pause_s=RETRY_S + 1)
    assert server.got == [("start", "run"), 1, 2, "failed"]
    assert server.failures == [("call 0 refused", 0)]


def test_the_end_is_tried_even_right_after_a_failure() -> None:
    server = play(Server(down={1}), [OPENING, *rows(1), {"status": "interrupted"}])
    assert server.got == [("start", "run"), "interrupted"]


def test_a_run_that_never_opened_is_not_opened_for_its_end() -> None:
    server = play(Server(down={0}), [OPENING, *rows(1), {"status": "finished"}], pause_s=1.0)
    assert server.calls == 1
