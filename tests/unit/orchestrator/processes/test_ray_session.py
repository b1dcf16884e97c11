"""A Ray of a run's own, which may not come up on a busy machine."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import pytest

from orchestrator.errors import RayStartError
from orchestrator.processes import ray_session
from orchestrator.processes.ray_session import STARTS, start_own
from orchestrator.settings.config import RaySpec


class Starts:
    """Takes the place of `ray.init`: fails so many times, and leaves a process each time."""

    def __init__(self, num_failures: int) -> None:
        self.num_failures, self.num = num_failures, 0
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **_options: Any) -> None:
        self.num += 1
        assert not any(psutil.pid_exists(process.pid) for process in self.left)
        if self.num <= self.num_failures:
            sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
            self.left.append(subprocess.Popen(sleeps))
            raise Exception("The current node timed out during startup. It may be this or that.")


@pytest.fixture
def mine() -> Any:
    """A process that this one had before, and keeps."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_ray_that_does_not_come_up_is_ended_and_started_once_more(
    monkeypatch: pytest.MonkeyPatch, mine: subprocess.Popen[bytes]
) -> None:
    starts, warnings = Starts(1), list[str]()
    monkeypatch.setattr(ray_session.ray, "init", starts)
    start_own(RaySpec(), False, warnings.append)
    assert starts.num == 2
    assert mine.poll() is None
    (warning,) = warnings
    assert "timed out during startup" in warning
    assert warning.endswith("; it is started once more")


def test_a_ray_that_never_comes_up_is_an_error_that_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, mine: subprocess.Popen[bytes]
) -> None:
    starts = Starts(STARTS)
    monkeypatch.setattr(ray_session.ray, "init", starts)
    with pytest.raises(RayStartError, match="run the same command again"):
        start_own(RaySpec(), False)
    assert starts.num == STARTS
    assert not any(psutil.pid_exists(process.pid) for process in starts.left)
    assert mine.poll() is None
