"""The variables of `tandem submit --env`, set in every process of a job.

They travel in the job's package rather than in Ray's `env_vars`, which Ray writes to its logs,
shows to everyone who lists jobs, and passes on command lines. Ray calls `set_variables` in each
worker as `worker_process_setup_hook`; the driver, which is no worker, is started by
`python -m jobs.submit.job_env COMMAND …`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from jobs.submit.package import JOB_FOLDER

FILE = "env.json"
HOOK = "jobs.submit.job_env.set_variables"


def set_variables() -> None:
    """Sets the variables in the job's folder, which lies in the working directory."""
    os.environ.update(json.loads(Path(JOB_FOLDER, FILE).read_text(encoding="utf-8")))


if __name__ == "__main__":
    set_variables()
    os.execvp(sys.argv[1], sys.argv[1:])
