"""What each term of the losses buys, and what it costs: with it and without it, paired by seed.

    python -m benchmarks.terms --json [--seeds 5] [--arms ARM,...] [--data ../shared/data]
                               [--cache DIR]

An arm is the shipped settings with one of them changed. Three small worlds, all on real facts:

    together    both layers learn the same facts side by side, as in `learning`, in wordings of
                which some are held out: what the pair gains, what the memory knows alone, core-s
    reflect     memories that follow one data layer, as in `reflect`: it learns facts, and then,
                alone, other answers to them that the memory's text contradicts; and a novel
    copied      as together, with a data layer that has read a novel before, of whose first layer
                the memory's encoder is a frozen copy

Arms whose setting means nothing in a world are not run there. Printed are the differences from the
shipped settings, their mean over the seeds and its 95 % interval; `worse` and `better` are those
whose interval leaves 0 out. Cells are kept in --cache: the same command goes on where it was
interrupted. A cell takes about half a minute of one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.layers.causal_lm import build_model
from actors.settings.run import RunSpec
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from benchmarks import reflect_cells
from benchmarks import reflect_figures as figures
from benchmarks.cells import Cells, Task, code_digest
from benchmarks.cells_command import measure_and_print
from benchmarks.intervals import interval_95, table_row
from benchmarks.learning import PARTS as LEARNING_PARTS
from benchmarks.learning_data import NOVEL
from benchmarks.learning_data import check_folder as check_facts
from benchmarks.learning_drive import RUN, drive_data
from benchmarks.learning_specs import QUICK as LEARNING_QUICK
from benchmarks.learning_specs import WINDOW
from benchmarks.learning_specs import Sizes as TogetherSizes
from benchmarks.learning_together import PLAIN, TogetherCells
from benchmarks.reflect_cells import FactsCells, TextCells
from benchmarks.reflect_data import check_folder as check_edits
from benchmarks.reflect_specs import QUICK as REFLECT_QUICK
from benchmarks.reflect_specs import Sizes as ReflectSizes
from benchmarks.small_specs import changed_spec

Json = dict[str, Any]
Figures = dict[str, float]
SEEDS = 5
SHIPPED = "shipped"
TOGETHER, REFLECT, COPIED = "together", "reflect", "copied"
# Of another width than the data layer, so that something of the encoder is left to train.
COPY = {"encoder": "frozen_copy", "copy_layers": 1, "dim": 96, "slots_side": 48}


@dataclass(frozen=True)
class Arm:
    """Settings that differ from the shipped ones, by dotted name, and the worlds that they mean
    something in.
    """

    changes: Mapping[str, Any]
    worlds: tuple[str, ...] = (TOGETHER, REFLECT)


ARMS: dict[str, Arm] = {
    SHIPPED: Arm({}, (TOGETHER, REFLECT, COPIED)),
    "without mixing noise": Arm({"data.mixing_noise": 0.0}, (TOGETHER,)),
    "without reader": Arm({"losses.reader": 0.0}, (TOGETHER,)),
    "without balance": Arm({"losses.balance": 0.0}),
    "without yielding": Arm({"losses.self_yields": 0.0}, (REFLECT,)),  # `together` has none
    "without the encoder's": Arm({"losses.encoder": 0.0}, (TOGETHER, REFLECT, COPIED)),
}
# 1: more of it is better; -1: less; 0: neither by itself.
TOGETHER_FIGURES = {
    "help_gain": 1,
    "help_loss": -1,
    "own_loss": -1,
    "self_loss": -1,
    "recall_kl": -1,
    "likeness": 1,
    "answers_help": 1,
    "answers_own": 1,
    "answers_memory": 1,
    "answers_help_mean": 1,
    "answers_memory_mean": 1,
    "mixing": 0,
    "slots_top1pct_share": -1,
    "data_core_s": -1,
    "memory_core_s": -1,
}
REFLECT_FIGURES = {
    "recall_agreement_seen": 1,
    "recall_agreement_unseen": 1,
    "slot_share_facts": 1,
    "reflection_rate_after_1": 1,
    "reflection_rate_after_2": 1,
    "reflection_rate_after_4": 1,
    "paraphrase_after_1": 1,
    "paraphrase_after_4": 1,
    "unchanged_lost": -1,
    "teacher_frac": -1,
    "reflect_top1pct_share": -1,
    "recall_gap_closed": 1,
    "text_top1pct_share": -1,
}
SIGNS = {TOGETHER: TOGETHER_FIGURES, REFLECT: REFLECT_FIGURES, COPIED: TOGETHER_FIGURES}


@dataclass(frozen=True)
class Sizes:
    """How big the cells are."""

    together: TogetherSizes
    reflect: ReflectSizes


SMALL = Sizes(
    replace(LEARNING_QUICK, num_facts=320, intervals=14, asked_every=7, probes=320, windows=64),
    replace(REFLECT_QUICK, num_facts=240, num_edits=144, facts_intervals=8, text_intervals=6),
)


@dataclass(frozen=True)
class SeedArms:
    """Every arm of one seed."""

    cells: Cells
    sizes: Sizes
    data: Path
    seed: int

    @property
    def _facts(self) -> FactsCells:
        return FactsCells(self.cells, self.sizes.reflect, self.data, self.seed)

    @property
    def _text(self) -> TextCells:
        return TextCells(self.cells, self.sizes.reflect, self.data, self.seed)

    def _together(self, name: str, **besides: Any) -> TogetherCells:
        changes = {**besides, **ARMS[name].changes}
        return TogetherCells(self.cells, self.sizes.together, self.data, self.seed, changes)

    def _copied(self, name: str) -> TogetherCells:
        folder = self.cells.folder_of(f"pretrained-{self.seed}", self._pretrain)
        data = {"data.layer.pretrained": str(folder), "data.layer.fields": {}}
        memory = {f"memory.layer.{key}": value for key, value in COPY.items()}
        return self._together(name, **data, **memory)

    def _pretrain(self, folder: Path) -> None:
        """Writes a data layer that has read the novel by itself, in the tokens of the facts."""
        torch.set_num_threads(1)
        cells = self._together(SHIPPED)
        corpus = {"paths": [str(self.data / NOVEL)], "window": WINDOW}
        fields = {**cells.spec.model_dump(), "corpus": corpus}
        spec = changed_spec(RunSpec.model_validate(fields), PLAIN)
        tokenizer = cells.tokenizer.to_json()
        data, peer = DataTrainer(spec, tokenizer, RUN), MemoryTrainer(spec, tokenizer, RUN)
        drive_data(data, peer, spec.intervals, spec.intervals, lambda _: {})
        model = build_model(spec.data.layer, data.layer.vocab_rows)  # with storage of its own
        model.load_state_dict(data.layer.model.state_dict())
        model.save_pretrained(folder)

    def _pair(self, name: str, world: str) -> Json:
        cells = self._copied(name) if world == COPIED else self._together(name)
        return cells.pair()

    def tasks(self, name: str) -> list[Task]:
        """What an arm asks for, by cell."""
        arm, tasks = ARMS[name], list[Task]()
        if TOGETHER in arm.worlds:
            tasks.append(partial(self._pair, name, TOGETHER))
        if COPIED in arm.worlds:
            tasks.append(partial(self._pair, name, COPIED))
        if REFLECT in arm.worlds:
            tasks += [
                partial(FactsCells.reflection, self._facts, name, arm.changes),
                partial(TextCells.memory, self._text, name, arm.changes),
            ]
        return tasks

    def figures(self, name: str) -> dict[str, Figures]:
        """By world, an arm's figures."""
        arm, found = ARMS[name], dict[str, Figures]()
        for world in {TOGETHER, COPIED} & set(arm.worlds):
            found[world] = together_figures(self._pair(name, world))
        if REFLECT in arm.worlds:
            found[REFLECT] = reflect_figures(
                self._facts.memory(name, arm.changes),
                self._facts.reflection(name, arm.changes),
                self._text.memory(name, arm.changes),
            )
        return found


def together_figures(pair: Json) -> Figures:
    """Of a pair that learned facts; losses in nats, answers are whole ones in unseen wordings."""
    end, curve = pair["final"], pair["curve"]
    losses = ("help_gain", "help_loss", "own_loss", "self_loss", "recall_kl", "mixing")
    return {
        **{name: end[name] for name in (*losses, "slots_top1pct_share")},
        "likeness": end["recall_agreement"],
        **{f"answers_{voice}": share for voice, share in end["unseen"].items()},
        **{
            f"answers_{voice}_mean": statistics.fmean(row[voice] for row in curve)
            for voice in ("help", "memory")
        },
        **{f"{group}_core_s": curve[-1][f"{group}_cpu_s"] for group in ("data", "memory")},
    }


def reflect_figures(one: Json, two: Json, text: Json) -> Figures:
    """Of memories that follow a data layer: of facts, in both phases, and of a novel."""
    found = figures.facts_figures(one, two)
    found["reflect_top1pct_share"] = found["slots_top1pct_share"]
    of_text = figures.text_figures(text)
    found["recall_gap_closed"] = of_text["recall_gap_closed"]
    found["text_top1pct_share"] = of_text["slots_top1pct_share_text"]
    return {name: found[name] for name in REFLECT_FIGURES}


def verdict(mean: float, half: float, sign: int) -> str:
    """`worse` or `better` where the interval of a difference leaves 0 out, else nothing."""
    if not sign or abs(mean) <= half:
        return ""
    return "better" if mean * sign > 0 else "worse"


def differences(
    rows: Sequence[Figures], shipped: Sequence[Figures], signs: Mapping[str, int]
) -> Json:
    """Each figure's difference from the shipped settings, over the seeds of both."""
    found = {}
    for name, sign in signs.items():
        pairs = zip(rows, shipped, strict=True)
        mean, half = interval_95([row[name] - base[name] for row, base in pairs])
        found[name] = {"mean": mean, "half_95": half, "verdict": verdict(mean, half, sign)}
    return found


def measure(seeds: Sequence[SeedArms], names: Sequence[str]) -> Json:
    """The shipped settings' figures, and by arm and world what differs from them.

    Raises: OutOfCellsError where only some cells may be computed now.
    """
    shipped = [each.figures(SHIPPED) for each in seeds]
    found: Json = {}
    by_seed: Json = {SHIPPED: shipped}
    for name in names:
        rows = by_seed[name] = [each.figures(name) for each in seeds]
        found[name] = {
            world: differences([r[world] for r in rows], [s[world] for s in shipped], SIGNS[world])
            for world in ARMS[name].worlds
        }
    return {
        "seeds": [each.seed for each in seeds],
        SHIPPED: {world: table_row([row[world] for row in shipped]) for world in SIGNS},
        "differences": found,
        "by_seed": by_seed,
        "stale_cells": seeds[0].cells.stale,
    }


def lines(result: Json) -> Iterator[str]:
    """The table as a person reads it."""
    for world, rows in result[SHIPPED].items():
        yield f"{world}: {SHIPPED}"
        for name in SIGNS[world]:
            yield f"  {name:26} {rows[name]['mean']:9.3f} ±{rows[name]['half_95']:7.3f}"
    for arm, worlds in result["differences"].items():
        for world, rows in worlds.items():
            yield f"\n{world}: {arm}, minus {SHIPPED}"
            for name, row in rows.items():
                difference = f"{row['mean']:+9.3f} ±{row['half_95']:7.3f}"
                yield f"  {name:26} {difference}  {row['verdict']}".rstrip()


def main() -> int:
    """As `measure_and_print`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many (default {SEEDS})")
    parser.add_argument("--arms", default="", help="some of " + ", ".join(list(ARMS)[1:]))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=None, help="where cells are kept")
    parser.add_argument("--cells", type=int, default=None, help="compute so many, then stop")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compute cells")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.arms.split(",") if name.strip()]
    names = names or [name for name in ARMS if name != SHIPPED]
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    parts = (*LEARNING_PARTS, *reflect_cells.PARTS, "reflect_specs")
    cells = Cells(arguments.cache or Path("runs/terms"), arguments.cells, code_digest(parts))

    def seeds() -> list[SeedArms]:
        check_facts(arguments.data)
        check_edits(arguments.data)
        return [SeedArms(cells, SMALL, arguments.data, seed) for seed in range(arguments.seeds)]

    return measure_and_print(
        cells,
        seeds,
        lambda made: [t for name in (SHIPPED, *names) for each in made for t in each.tasks(name)],
        lambda made: measure(made, names),
        lines,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
