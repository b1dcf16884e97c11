"""Names of the files in a run's directory, and the command that resumes it."""

from __future__ import annotations

import shlex

CONFIG, TOKENIZER, SUMMARY, REPORT = "config.yaml", "tokenizer.json", "summary.json", "report.html"
METRICS, EVALUATIONS, EXPORT, EVENTS = "metrics.parquet", "evaluations.json", "export", "events"
METRICS_LOG = "metrics"  # while the run runs
CHECKPOINTS, PROFILES, CORPUS = "checkpoints", "profiles", "corpus.json"
TAUGHT = "taught.json"  # of a run that teaches
STATUS, MAILBOX = "status.json", "mailbox"
EXPORT_MARKER = "export.json"  # an export's last file, of `actors.weights.pair_export`


def resume_command(url: str, in_process: bool = False) -> str:
    """The command that resumes a run, in one process where it was in one."""
    return f"tandem resume {shlex.quote(url)}" + (" --in-process" if in_process else "")
