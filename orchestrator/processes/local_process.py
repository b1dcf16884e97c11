"""Processes of our actors on this machine: whether they run, and how they are ended."""

from __future__ import annotations

import time

import psutil

TITLES = ("ray::Rank", "ray::EvaluatorActor")  # of our actors' processes
POLL_S = 0.02  # between two looks at a process that is ending


def is_actor(pid: int) -> bool:
    """True while `pid` is one of our actors' processes on this machine."""
    try:
        process = psutil.Process(pid)
        title = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and any(name in title for name in TITLES)
    except psutil.Error:
        return False


def is_gone(pid: int, deadline: float) -> bool:
    """Waits until an actor's process has ended; False where it has not by then."""
    while is_actor(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_stopped(pid: int) -> bool:
    """True for a process that is stopped by a signal, so that it can't answer."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def kill(pid: int) -> None:
    """Ends a process at once."""
    try:
        psutil.Process(pid).kill()
    except psutil.Error:
        return  # it had ended before
