"""The peer of `recovery`: the quickstart's data loop in Ray Train's `TorchTrainer`, killed once.

One worker with one CPU, a checkpoint every so many steps through `ray.train.report`, one failure
allowed. The worker writes the time of each step to a file; this process kills it by its id and
prints, as one JSON object, the seconds from SIGKILL to the end of the next step.

    python -m benchmarks.ray_train_loop CONFIG FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

STEPS, SAVE_EVERY, KILL_AFTER = 400, 40, 100


def loop(settings: dict[str, Any]) -> None:
    """The worker's function."""
    import torch
    from ray import train

    from actors.corpus.corpus import Corpus, train_tokenizer
    from benchmarks.plain_loops import data_loop
    from orchestrator.settings.config import load_config

    torch.set_num_threads(1)
    spec = load_config(settings["config"])
    steps_file = Path(settings["folder"]) / "steps"
    step = data_loop(spec, Corpus.open(spec, train_tokenizer(spec)))
    first = 0
    if (saved := train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            first = int(torch.load(f"{folder}/state.pt", weights_only=True)["step"])
    for number in range(first, STEPS):
        step()
        with steps_file.open("a") as handle:
            handle.write(f"{os.getpid()} {number} {time.time()}\n")
        if number % SAVE_EVERY == SAVE_EVERY - 1:
            with tempfile.TemporaryDirectory() as folder:
                torch.save({"step": number + 1}, f"{folder}/state.pt")
                train.report({"step": number}, checkpoint=train.Checkpoint.from_directory(folder))


def steps_of(folder: Path) -> list[tuple[int, int, float]]:
    """(process id, number, time) of every step so far."""
    path = folder / "steps"
    if not path.exists():
        return []
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(int(pid), int(number), float(at)) for pid, number, at in rows if at]


def main() -> None:
    """Trains, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("folder")
    arguments = parser.parse_args()
    folder = Path(arguments.folder)
    folder.mkdir(parents=True)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    killed: list[float] = []

    def kill() -> None:
        while len(rows := steps_of(folder)) < KILL_AFTER:
            time.sleep(0.01)
        killed.append(time.time())
        os.kill(rows[-1][0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    TorchTrainer(
        loop,
        train_loop_config={"config": arguments.config, "folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="loop", storage_path=str(folder), failure_config=FailureConfig(max_failures=1)
        ),
    ).fit()
    ray.shutdown()
    (at,) = killed
    after = [when for _, _, when in steps_of(folder) if when > at]
    print(json.dumps({"restart_s": min(after) - at}))


if __name__ == "__main__":
    main()
