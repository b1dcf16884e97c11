"""The command of a benchmark whose results are cells: its common options, and how it ends.

Called by `reflect` and `learning`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from benchmarks.cells import Cells, OutOfCellsError, Task, compute_ahead
from benchmarks.reflect_data import MissingDataError
from benchmarks.small_specs import Layers

Json = dict[str, Any]
SEEDS, QUICK_SEEDS = 3, 1


def cells_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that such benchmarks share; `doc` is the module's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one seed, small")
    size.add_argument(
        "--large", action="store_true", help="one seed, a data layer of 100 million parameters"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=None, help="where cells are kept")
    parser.add_argument("--seeds", type=int, default=None, help="how many (default 3; quick 1)")
    parser.add_argument("--cells", type=int, default=None, help="compute so many, then stop")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compute cells")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None,
                        help="where layers compute (default: cpu; with --large cuda)")  # fmt: skip
    return parser


Size = TypeVar("Size", bound="HasLayers")
Groups = TypeVar("Groups")


class HasLayers(Protocol):
    """Sizes of a benchmark."""

    @property
    def layers(self) -> Layers:
        """Of the run's two layers."""


def size_of(arguments: argparse.Namespace, full: Size, quick: Size, large: Size) -> Size:
    """The size that was asked for, on the device that was asked for."""
    size = quick if arguments.quick else large if arguments.large else full
    layers = replace(size.layers, device=arguments.device or size.layers.device)
    changed: Size = replace(size, layers=layers)  # type: ignore[type-var]
    return changed


def seeds_of(arguments: argparse.Namespace) -> list[int]:
    """The seeds that were asked for."""
    small = arguments.quick or arguments.large
    return list(range(arguments.seeds or (QUICK_SEEDS if small else SEEDS)))


def measure_and_print(
    cells: Cells,
    groups: Callable[[], Groups],
    tasks: Callable[[Groups], Sequence[Task]],
    measure: Callable[[Groups], Json],
    lines: Callable[[Json], Iterable[str]],
    arguments: argparse.Namespace,
) -> int:
    """Measures and prints; 2 where the data is missing, 3 where cells are left to do.

    Args:
        cells: where results are kept.
        groups: makes the cells of every seed.
        tasks: what can be computed by several processes before it is measured.
        measure, lines: the table, and how a person reads it.
        arguments: as `cells_parser` parsed them.
    """
    torch.set_num_threads(1)
    try:
        made = groups()
        if arguments.jobs > 1 and arguments.cells is None:
            compute_ahead(tasks(made), arguments.jobs)
        result = measure(made)
    except MissingDataError as err:
        print(err, file=sys.stderr)
        return 2
    except OutOfCellsError as err:
        print(f"stopped before cell {err}; the same command goes on", file=sys.stderr)
        return 3
    if cells.stale:
        print(f"{cells.stale} cells in {cells.folder} were computed by other code; remove them to "
              "have them done again", file=sys.stderr)  # fmt: skip
    if missing := result.get("missing"):
        print("\n".join(missing), file=sys.stderr, end="")
    print(json.dumps(result) if arguments.json else "\n".join(lines(result)))
    return 0
