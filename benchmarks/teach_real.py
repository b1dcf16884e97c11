"""Teaching a real model: CounterFact's edits on SmolLM2-135M, beside MEMIT and AlphaEdit.

    python -m benchmarks.teach_real --json [--quick] [--data ../shared/data] [--cache DIR]
                                    [--arms before,teach-all,...] [--cells N]

A memory is made for the model, which learns facts of the edits' relations but none about what is
edited or asked. `tandem teach` then teaches the model all edits at once, as adapters (`lora`) and
as a whole (`all`). Beside it, on the same model, with the same edits: labels alone, by the same
steps, and the closed forms of `memit`, each in several settings of which the best counts. All
figures are of the model alone. Cells are kept in --cache, as by `benchmarks.pretrained`.

    es, ps, ns       CounterFact's: the new answer is likelier than the old one in the prompt that
                     is taught, in wordings that nobody has seen; the old one stays likelier for
                     neighbours
    score            their harmonic mean
    seen             as ps, in a wording that the memory has met
    whole            of the taught prompts, those after which the model says all of the new answer
    text_lost_frac   by how much the loss on a novel rose
    minutes          of the command, or of an arm
    ratio            score of the better teaching over that of the best of all others
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import Cells, OutOfCellsError, code_digest
from benchmarks.real_model import MissingModelError, default_cache, real_model
from benchmarks.reflect_data import MissingDataError
from benchmarks.teach_data import check_folder
from benchmarks.teach_real_arms import (
    ALPHAEDIT,
    LABELS,
    MEMIT,
    RealSizes,
    asked,
    edited,
    labels_alone,
    made_memory,
    taught,
    values_of,
)
from benchmarks.teach_real_data import RealData, prepare

Json = dict[str, Any]
PARTS = ("memit", "teach_real_arms", "teach_real_data", "teach_scores", "learning_exam",
         "real_model")  # fmt: skip
TEACH = ("teach-all", "teach-lora")
FULL = RealSizes(5, 50, 150, 150, 60)
QUICK = RealSizes(2, 10, 60, 80, 20)
SHOWN = ("score", "es", "ps", "ns", "seen", "whole", "text_lost_frac", "minutes")


@dataclass(frozen=True)
class RealCells:
    """The arms of one seed.

    Attributes:
        cells: where results are kept.
        model: the model's folder.
        data: folder of the edits, facts and the novel.
        sizes: how much is taught.
        seed: of the choice of edits and of the runs.
    """

    cells: Cells
    model: Path
    data: Path
    sizes: RealSizes
    seed: int = 0

    @cached_property
    def real(self) -> RealData:
        """What is taught."""
        sizes = self.sizes
        folder = self.cells.folder / f"real-{sizes.num_edits}-{sizes.num_facts}-{self.seed}"
        numbers = sizes.num_relations, sizes.num_edits, sizes.num_facts
        return prepare(self.data, folder, *numbers, self.seed)

    def cell(self, name: str, compute: Callable[[Path], Json]) -> Json:
        """A result that is kept."""
        return self.cells.get(
            "real", {"sizes": self.sizes, "seed": self.seed, "arm": name}, compute
        )

    @property
    def memory(self) -> str:
        """The run of the memory that is made for the model."""
        make = partial(made_memory, self.real, self.model, self.sizes, self.seed)
        return str(self.cell("memory", make)["run"])

    @property
    def values(self) -> Path:
        """Values and second moments, which the closed forms share."""
        make = partial(values_of, self.real, self.memory)
        return Path(self.cell("values", make)["file"])

    def arm(self, name: str) -> Json:
        """Its figures."""
        real, memory, sizes = self.real, self.memory, self.sizes
        if name == "before":
            return self.cell(name, lambda _: asked(real, f"{memory}/export"))
        if name in TEACH:
            train = name.removeprefix("teach-")
            return self.cell(name, partial(taught, real, memory, train, sizes))
        if name in LABELS:
            return self.cell(name, lambda _: labels_alone(real, memory, *LABELS[name], sizes))
        values = self.values
        return self.cell(name, lambda _: edited(real, memory, values, name))


ARMS = ("before", *TEACH, *LABELS, *MEMIT, *ALPHAEDIT)


def measure(cells: RealCells, arms: Sequence[str]) -> Json:
    """The figures of these arms. Raises: OutOfCellsError: some have to be computed and may not."""
    found = {name: cells.arm(name) for name in arms}
    if before := found.get("before"):
        for row in found.values():
            row["text_lost_frac"] = row["text_loss"] / before["text_loss"] - 1
    result: Json = {"arms": found, "stale": cells.cells.stale, "sizes": asdict(cells.sizes)}
    groups = {"teach": TEACH, "labels": LABELS, "memit": MEMIT, "alphaedit": ALPHAEDIT}
    for group, names in groups.items():
        scores = {name: found[name]["score"] for name in names if name in found}
        result[f"{group}_score"] = max(scores.values()) if scores else None
    others = [s for g in ("labels", "memit", "alphaedit") if (s := result[f"{g}_score"])]
    ours = result["teach_score"]
    result["ratio"] = ours / max(others) if ours and others else None
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 0: done; 2: what is needed is missing; 3: cells are left to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="10 edits")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=None, help="where results are kept")
    parser.add_argument("--cells", type=int, default=None, help="compute so many, then stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", default=",".join(ARMS), help="which to measure")
    given = parser.parse_args(arguments)
    arms = given.arms.split(",")
    if wrong := sorted({*arms} - {*ARMS}):
        parser.error(f"--arms {','.join(wrong)}: expected some of {','.join(ARMS)}")
    torch.set_num_threads(1)
    try:
        check_folder(given.data)
        cache = (given.cache or default_cache()).absolute()
        cells = Cells(cache / "cells", given.cells, code_digest(PARTS))
        sizes = QUICK if given.quick else FULL
        result = measure(RealCells(cells, real_model(cache), given.data, sizes, given.seed), arms)
    except (MissingDataError, MissingModelError) as err:
        print(f"benchmarks.teach_real: {err}", file=sys.stderr)
        return 2
    except OutOfCellsError as err:
        print(f"stopped before cell {err}; the same command goes on", file=sys.stderr)
        return 3
    if given.json:
        print(json.dumps(result))
        return 0
    print(f"{'arm':24}" + "".join(f"{name:>15}" for name in SHOWN))
    for name, row in result["arms"].items():
        print(f"{name:24}" + "".join(f"{row.get(key, float('nan')):15.3f}" for key in SHOWN))
    print(f"ratio {result['ratio']}, aim >= 1.1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
