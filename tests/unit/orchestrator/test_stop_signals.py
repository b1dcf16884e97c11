from __future__ import annotations

import signal
import threading

import pytest

from orchestrator.stop_signals import stop_signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_run_to_stop(signum: signal.Signals) -> None:
    with stop_signals() as flag:
        assert flag.reason() is None
        signal.raise_signal(signum)
        assert f"stopped by {signum.name}" in str(flag.reason())


def test_a_stopped_run_says_how_to_go_on() -> None:
    with stop_signals("tandem resume /runs/one --in-process") as flag:
        signal.raise_signal(signal.SIGINT)
    wanted = "ended; tandem resume /runs/one --in-process goes on from the newest checkpoint"
    assert str(flag.reason()).endswith(wanted)


def test_a_second_signal_ends_the_wait_at_once() -> None:
    def twice() -> None:
        with stop_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^ended at once by a second signal"):
        twice()


def test_a_run_that_is_ended_at_once_says_how_to_go_on() -> None:
    with stop_signals("tandem resume runs/one"):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match=r"signal; tandem resume runs/one goes on"):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_from_before_are_back_afterwards() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_in_another_thread_leaves_the_signals_alone() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_signals() as flag:
            inside.append((signal.getsignal(signal.SIGTERM), flag.reason()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, None)]
