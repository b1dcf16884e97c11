"""What decoupling costs and buys: both groups inside Tandem beside the same loops in plain PyTorch.

    python -m benchmarks.throughput [--json] [--rounds 3]

In each round: the two plain loops, at the same time, one thread and one core each (as the groups
run in Tandem); one Tandem run of the same steps; one process that alternates both loops, with one
thread and with two. Steps per interval are set so that both groups' intervals take about the same
time. Figures are medians over the rounds of ratios within a round, since these machines are noisy.

    data_ratio, memory_ratio     tokens/s of a group inside Tandem over its plain loop (the first
    interval left out) concurrent_over_alternating  wall time of both groups at once over one
    single-threaded process doing the same steps first_step_s                 from the command's
    start to the first optimizer step imports_s                    of that, what a process needs to
    import torch and the model's code
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from actors.settings.run import DATA, GROUPS, MEMORY

DATA_STEPS = 20
INTERVALS = 7
TABLE = Path(__file__).parent.parent / "jobs" / "corpora" / "world"

CONFIG: dict[str, Any] = {
    "name": "throughput",
    "intervals": INTERVALS,
    "corpus": {
        "kind": "facts",
        "paths": [str(TABLE / "facts.jsonl")],
        "templates": str(TABLE / "templates.json"),
        "window": 96,
    },
    "evaluation": {"every": 0, "final_windows": 4, "final_probes": 4},
    "exchange": {"catchup_intervals": 1},
    "ray": {"num_cpus": 2},
    "data": {
        "layer": {
            "model_type": "llama",
            "fields": {
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "tie_word_embeddings": True,
            },
        },
        "batch_size": 16,
        "steps_per_interval": DATA_STEPS,
    },
    "memory": {"batch_size": 16, "steps_per_interval": DATA_STEPS},
}


def _json_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{err[-2000:]}")
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1]) if out.strip() else {}
    return result


def _plain(config: Path, loop: str, steps: dict[str, int], threads: int) -> subprocess.Popen[str]:
    arguments = ["--steps", str(steps[DATA]), "--memory-steps", str(steps[MEMORY])]
    arguments += ["--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.plain_loops", str(config), loop, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _tandem(config: Path, storage: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    command = [sys.executable, "-m", "jobs.cli", "train", str(config)]
    command += [f"storage={storage}", f"name={name}"]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"tandem train ended with {done.returncode}:\n{done.stderr[-2000:]}")
    import pyarrow.parquet as pq

    summary = json.loads((storage / name / "summary.json").read_text())
    summary["command_s"] = time.time() - began
    rows = pq.read_table(str(storage / name / "metrics.parquet")).to_pylist()
    return summary, rows


def _inside(rows: list[dict[str, Any]], group: str) -> float:
    """Tokens/s of a group inside Tandem, from its second interval's start to its last one's end."""
    mine = [row for row in rows if row["group"] == group and 1 < row["interval"] <= INTERVALS]
    return sum(row["tokens"] for row in mine) / (mine[-1]["end_s"] - mine[0]["start_s"])


def _imports_s() -> float:
    code = (
        "import time; t = time.perf_counter(); import torch; "
        "import transformers.models.llama.modeling_llama; print(time.perf_counter() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_round(folder: Path, name: str, steps: dict[str, int]) -> dict[str, float]:
    """One round; `steps` are those of one interval."""
    config = folder / "config.yaml"
    CONFIG["memory"]["steps_per_interval"] = steps[MEMORY]
    config.write_text(yaml.safe_dump(CONFIG))
    total = {group: num * (INTERVALS - 1) for group, num in steps.items()}
    pair = {group: _plain(config, group, total, 1) for group in GROUPS}
    plain = {group: _json_of(process) for group, process in pair.items()}
    summary, rows = _tandem(config, folder / "runs", name)
    one = _json_of(_plain(config, "alternating", total, 1))
    two = _json_of(_plain(config, "alternating", total, 2))
    timed = [row for row in rows if 1 < row["interval"] <= INTERVALS]
    wall = max(row["end_s"] for row in timed) - min(row["start_s"] for row in timed)
    speed = {group: plain[group]["tokens"] / plain[group]["seconds"] for group in GROUPS}
    return {
        "data_ratio": _inside(rows, DATA) / speed[DATA],
        "memory_ratio": _inside(rows, MEMORY) / speed[MEMORY],
        "concurrent_over_alternating": wall / one["seconds"],
        "concurrent_over_alternating_two_threads": wall / two["seconds"],
        "first_step_s": summary["first_step_s"],
        "imports_s": _imports_s(),
        "data_tokens_per_s": _inside(rows, DATA),
        "plain_data_tokens_per_s": speed[DATA],
        "memory_tokens_per_s": _inside(rows, MEMORY),
        "plain_memory_tokens_per_s": speed[MEMORY],
    }


def balanced_steps(folder: Path) -> dict[str, int]:
    """Steps per interval with which both groups' intervals take about the same time."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    pair = {group: _plain(config, group, dict.fromkeys(GROUPS, 30), 1) for group in GROUPS}
    seconds = {group: _json_of(process)["seconds"] for group, process in pair.items()}
    return {DATA: DATA_STEPS, MEMORY: max(1, round(DATA_STEPS * seconds[DATA] / seconds[MEMORY]))}


def main() -> None:
    """Runs the rounds and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-throughput-") as temporary:
        folder = Path(temporary)
        steps = balanced_steps(folder)
        rounds = [measure_round(folder, f"round{i}", steps) for i in range(arguments.rounds)]
    result: dict[str, Any] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    result["steps_per_interval"] = steps
    result["rounds"] = rounds
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            if isinstance(value, float):
                print(f"{key:42} {value:10.3f}")


if __name__ == "__main__":
    main()
