"""The command of a benchmark whose results are cells: its common options, and how it ends.

Called by `reflect` and `learning`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import Cells, OutOfCellsError
from benchmarks.reflect_data import MissingDataError

Json = dict[str, Any]
SEEDS, QUICK_SEEDS = 3, 1


def cells_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that such benchmarks share; `doc` is the module's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, small")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=None, help="where cells are kept")
    parser.add_argument("--seeds", type=int, default=None, help="how many (default 3; quick 1)")
    parser.add_argument("--cells", type=int, default=None, help="compute so many, then stop")
    return parser


def seeds_of(arguments: argparse.Namespace) -> list[int]:
    """The seeds that were asked for."""
    return list(range(arguments.seeds or (QUICK_SEEDS if arguments.quick else SEEDS)))


def measure_and_print(
    cells: Cells,
    measure: Callable[[], Json],
    lines: Callable[[Json], Iterable[str]],
    as_json: bool,
) -> int:
    """Measures and prints; 2 where the data is missing, 3 where cells are left to do."""
    torch.set_num_threads(1)
    try:
        result = measure()
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
    print(json.dumps(result) if as_json else "\n".join(lines(result)))
    return 0
