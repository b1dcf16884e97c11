from __future__ import annotations

import io
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus

from actors.wire import ConfigError
from jobs.submit.follow import LogPrinter, exit_code, find_job, waiting_for
from orchestrator.console import Console


def job(**fields: Any) -> JobDetails:
    plain = {"type": "SUBMISSION", "status": JobStatus.FAILED, "entrypoint": "tandem train c.yaml"}
    return JobDetails(**{**plain, **fields})


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 130),
    ],
)
def test_the_exit_code_is_the_commands_own(
    status: JobStatus, driver: int | None, code: int
) -> None:
    assert exit_code(job(status=status, driver_exit_code=driver)) == code


def printed(*pieces: str) -> str:
    out = io.StringIO()
    log = LogPrinter(Console(file=out, width=40))
    for piece in pieces:
        log.write(piece)
    log.close()
    return out.getvalue()


def test_a_log_in_pieces_is_printed_in_lines_without_what_ray_says_of_itself() -> None:
    got = printed(
        "2026-11-25 03:24:20,276\tINFO job_manager.py:581 -- Runtime env is setting up.\nRunning",
        " entrypoint for job x: python\n[   0.0 s] read",
        "ing the corpus [red]and[/red] more\nlast",
    )
    assert got == "[   0.0 s] reading the corpus [red]and[/red] more\nlast\n"


def test_a_log_cannot_take_over_the_terminal() -> None:
    assert printed("a\x1b]0;title\x07b\r\x9bc\n") == "a]0;titlebc\n"


def test_a_job_is_found_by_its_id_its_directory_and_its_name_the_newest_first() -> None:
    jobs = [
        job(submission_id="my-run-1", start_time=1,
            metadata={"tandem_run": "s3://b/my-run", "tandem_name": "my-run"}),
        job(submission_id="my-run-2", start_time=2,
            metadata={"tandem_run": "s3://c/my-run", "tandem_name": "my-run"}),
    ]  # fmt: skip
    assert find_job(jobs, "my-run-1").submission_id == "my-run-1"
    assert find_job(jobs, "s3://b/my-run/").submission_id == "my-run-1"
    assert find_job(jobs, "my-run").submission_id == "my-run-2"
    assert find_job(jobs, "runs/my-run").submission_id == "my-run-2"
    with pytest.raises(ConfigError, match="newest jobs: my-run-2, my-run-1"):
        find_job(jobs, "other")


def test_a_pending_job_says_what_it_waits_for() -> None:
    message = "Job has not started yet. It may be waiting for resources to become available."
    status = {
        "loadMetricsReport": {"usage": {"CPU": [4.0, 4.0], "GPU": [0.0, 2.0]}},
        "autoscalerReport": {"pendingNodes": [["10.0.0.9", "data", "setting-up"]]},
    }
    pending = job(status=JobStatus.PENDING, message=message, metadata={"tandem_driver": "1 CPU"})
    assert waiting_for(pending, status) == (
        "it may be waiting for resources to become available; its driver needs 1 CPU; the "
        "cluster has CPU 0 of 4 free, GPU 2 of 2 free; nodes starting: data"
    )
