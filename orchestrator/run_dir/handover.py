"""A run's committed pair as a folder that another run can begin from.

    pair.json           which run it is of, and after which interval
    tokenizer.json      of that run, and    }
    corpus.json         what it reads       }  the pair itself, where it is asked for; else the
    checkpoints/000040  the pair's files    }  folder only says where it lies

What is taken over is resumed like a run's own checkpoint, to the bit; only the config is the new
run's. Knows files, no Ray.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, CORPUS, TOKENIZER

PAIR = "pair.json"


def hand_over(run_dir: RunDir, interval: int, target: Path, whole: bool) -> None:
    """Fills an empty folder with a run's pair of that interval.

    Args:
        run_dir: the run.
        interval: of the pair.
        target: the folder.
        whole: copy the pair's files too; else the folder is useless once the run removes them.

    Raises:
        CheckpointError: the pair can't be read.
        ConfigError: a file of the run can't be read.
    """
    if whole:
        for name in (*_kept(run_dir), *checkpoints.file_names(run_dir, interval)):
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(run_dir.read_bytes(name))
    (target / PAIR).write_text(json.dumps({"run": run_dir.url, "interval": interval}))


def _kept(run_dir: RunDir) -> list[str]:
    """Files of a run that go with a pair; one that an earlier version began has no corpus.json."""
    return [TOKENIZER, *([CORPUS] if run_dir.exists(CORPUS) else [])]


def take_over(source: Path, config: Config) -> int:
    """Makes a run's directory of what was handed over, so that `train` resumes it; returns the
    interval after which it goes on.

    Args:
        source: a folder that `hand_over` filled with a whole pair.
        config: of the new run, whose directory is not there yet.

    Raises:
        CheckpointError: the pair can't be read.
        ConfigError: the new run's directory can't be written.
    """
    given, run_dir = RunDir(str(source)), RunDir(config.run_url)
    interval = int(json.loads(given.read(PAIR))["interval"])
    for name in (*_kept(given), *checkpoints.file_names(given, interval)):
        run_dir.write(name, given.read_bytes(name))
    run_dir.write(CONFIG, config.to_yaml(config.run_url))  # last: where it is, the pair is
    return interval
