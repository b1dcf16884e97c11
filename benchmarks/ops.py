"""What a step costs besides arithmetic: the operators that it dispatches, and its seconds.

    python -m benchmarks.ops [CONFIG] [--json] [--steps 20] [--set data.batch_size=8 ...]

Both groups of a run, in one process on one thread, by default of the quickstart. After two
intervals, so that every part of the mix and every teacher takes part, one step of each is counted:
every ATen operator that reaches a kernel or makes a view, in the forward pass, the backward pass
and the optimizer. That is what the host of a GPU pays for, whatever the sizes: some ten
microseconds each. Then the groups' steps take turns and the processor's seconds are summed.

    ops_per_step        operators of one step, views included; of `views` alone
    core_s_per_step     seconds of the processor (median over the steps)
    callers             operators by the function that asked for them, largest first; of the
                        backward pass, by the node of the graph

Trains on; measures no losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.corpus.corpus import build_tokenizer
from actors.settings.run import DATA, GROUPS, MEMORY, RunSpec
from actors.training.interval import Measured
from actors.training.trainer import Trainer
from actors.training.trainer_kinds import trainer_class
from benchmarks.learning_drive import RUN, Side
from orchestrator.settings.config import load_config

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "jobs" / "configs" / "quickstart.yaml"
LIBRARIES = ("/transformers/", "/peft/")  # whose functions are named too
WARM_INTERVALS = 2
LARGEST = 25  # callers that are printed


class Counted(TorchDispatchMode):
    """Counts the operators that are dispatched while it is entered.

    Attributes:
        by_caller: operators by who asked for them.
        by_name: operators by their names.
        num_views: of them, those that only make views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_caller: Counter[str] = Counter()
        self.by_name: Counter[str] = Counter()
        self.num_views = 0

    @property
    def total(self) -> int:
        """All operators."""
        return self.by_name.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.by_name[str(func)] += 1
        self.by_caller[_caller()] += 1
        self.num_views += func.is_view
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """Who asked for the operator that is dispatched now."""
    node = torch._C._current_autograd_node()
    if node is not None:
        return f"backward of {node.name()}"
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        known = [lib for lib in LIBRARIES if lib in path]
        if path.startswith(str(ROOT)) and not path.startswith(f"{ROOT}/.venv"):
            return f"{path.removeprefix(f'{ROOT}/')}:{frame.f_code.co_qualname}"
        if known:
            return f"{path[path.index(known[0]) + 1 :]}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"


@dataclass
class Group:
    """One group's side, and what was found of its steps."""

    side: Side
    counted: Counted | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def trainer(self) -> Trainer:
        """Of this group."""
        return self.side.trainer

    def count_a_step(self) -> None:
        """Takes a step with every operator counted."""
        self.counted = Counted()
        with self.counted:
            self._step()

    def time_a_step(self) -> None:
        """Takes a step and notes its seconds."""
        begin = time.process_time()
        self._step()
        self.seconds.append(time.process_time() - begin)

    def _step(self) -> Measured:
        measured = self.trainer.train_step()
        self.trainer.step += 1
        return measured

    def figures(self) -> dict[str, Any]:
        """What is reported."""
        assert self.counted is not None
        return {
            "ops_per_step": self.counted.total,
            "views": self.counted.num_views,
            "core_s_per_step": round(statistics.median(self.seconds), 5),
            "callers": dict(self.counted.by_caller.most_common(LARGEST)),
            "operators": dict(self.counted.by_name.most_common(LARGEST)),
        }


def warm_groups(spec: RunSpec) -> dict[str, Group]:
    """Both groups after some intervals in lockstep, in the middle of the next one."""
    tokenizer_json = build_tokenizer(spec).to_json()
    sides = (
        Side(trainer_class(spec, DATA)(spec, tokenizer_json, RUN)),
        Side(trainer_class(spec, MEMORY)(spec, tokenizer_json, RUN)),
    )
    for side in sides:
        side.start()
    for number in range(1, WARM_INTERVALS + 1):
        for side, peer in (sides, sides[::-1]):
            side.interval(number, peer, 1, 1)
    return dict(zip((DATA, MEMORY), map(Group, sides), strict=True))


def measure(spec: RunSpec, num_steps: int) -> dict[str, Any]:
    """The figures of both groups; `num_steps` of each are timed, in turn."""
    groups = warm_groups(spec)
    for group in groups.values():
        group.count_a_step()
    for _ in range(num_steps):
        for group in groups.values():
            group.time_a_step()
    return {name: group.figures() for name, group in groups.items()}


def quick_spec(config: Path, overrides: Sequence[str]) -> RunSpec:
    """The run of a config, with as few steps as show what a step costs."""
    spec = load_config(config, overrides).run_spec
    small = {"steps_per_interval": 2}
    return spec.model_copy(
        update={name: spec.group(name).model_copy(update=small) for name in GROUPS}
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what a step of each group costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="overrides")
    parser.add_argument("--steps", type=int, default=20, help="steps of each group that are timed")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures = measure(quick_spec(chosen.config, chosen.set), chosen.steps)
    if chosen.json:
        print(json.dumps(figures))
        return 0
    for name, of_group in figures.items():
        callers = of_group.pop("callers")
        operators = of_group.pop("operators")
        print(name, " ".join(f"{key} {value}" for key, value in of_group.items()))
        for title, counts in (("callers", callers), ("operators", operators)):
            print(f"  {title}")
            for caller, count in counts.items():
                print(f"    {count:5d}  {caller}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
