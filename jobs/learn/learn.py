"""`tandem learn`: the memory of a finished run learns new facts or text, and then the port through
which its data layer reads it; the model keeps every bit.

The run does not change; the result is a directory of its own, which `ask`, `evaluate` and
`jobs.api.load` take like a run. One process, without Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from actors.machine.progress import Progress
from actors.settings.corpus import CorpusSpec
from actors.settings.learn_plan import LearnPlan, PortPlan, default_lr
from actors.wire import ConfigError
from jobs.learn.new_corpus import facts_corpus, fitting_steps, text_corpus
from jobs.learn.old_data import OldFrom, old_from, open_old
from orchestrator.console import Console
from orchestrator.reporting.learn_report import UNITS, change_table
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import config_at, saved_config
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import REPORT, SUMMARY

if TYPE_CHECKING:
    from actors.layers.pair import Pair
    from actors.measuring.knowledge import KnowledgeTest

CURVE_POINTS, FEW_POINTS = 6, 2  # few where a measurement goes through a large model
STEPS, OLD_FRAC = 400, 0.25  # where the command is given none
PORT_FRAC = 0.5  # steps of the port for each of the memory


@dataclass(frozen=True)
class LearnOptions:
    """Options of the command; None: the default.

    Attributes:
        facts, text: path of what is to be learned, one of them.
        templates: wordings of the facts.
        out: directory of the result.
        steps: of the memory; None: 400, or beside a model that stays in part or in whole as it is
            by the size of the corpus.
        lr, old_frac, seed: as `LearnPlan`.
        old_from: where old data comes from: what the memory writes, or the run's corpus; None: from
            the memory where it can write.
        port: whether the port learns too; None: where it is all that trains of the data layer.
    """

    facts: str | None = None
    text: str | None = None
    templates: str | None = None
    out: str | None = None
    steps: int | None = None
    lr: float | None = None
    old_frac: float = OLD_FRAC
    seed: int | None = None
    old_from: OldFrom | None = None
    port: bool | None = None


def run_learn(run: str, options: LearnOptions, console: Console, as_json: bool) -> dict[str, Any]:
    """Has the memory learn, writes the result, prints and returns what was learned and lost.

    Raises:
        ConfigError: not a finished run; a missing or malformed corpus; the result exists already.
        DivergedError: the loss is NaN or infinite; nothing was written.
    """
    run_dir = RunDir(run)
    export = find_export(run)
    before = json.loads(run_dir.read(SUMMARY))
    config = saved_config(run_dir)
    corpus = _corpus(config, options)
    out = RunDir(options.out or f"{run_dir.url}-learned")
    kept = config_at(config, out)
    usual_lr = default_lr(config.memory.value_lr)
    if options.lr is not None and not 0 < options.lr < float("inf"):
        raise ConfigError(f"--lr {options.lr:g}: expected a positive number, e.g. {usual_lr:g}")
    if out.exists():
        raise ConfigError(
            f"{out.url} exists already; choose another --out, or remove it if it is not needed"
        )

    out.refuse_unwritable()
    from jobs.learn.learned_run import write_result

    source = old_from(options.old_from, before)
    with TaskProgress() as progress:
        learned, pair, tokenizer, heldout = _learn(
            config, export, corpus, options, source, progress
        )
    learned = {"run": run_dir.url, "out": out.url, "name": kept.name, **learned}
    write_result(out, kept, pair, tokenizer, learned, before, heldout)
    if as_json:
        console.print_json(json.dumps(learned))
    else:
        _print(learned, console)
    return learned


def _corpus(config: Config, options: LearnOptions) -> CorpusSpec:
    if (options.facts is None) == (options.text is None):
        raise ConfigError("give what is to be learned: either --facts FILE or --text CORPUS")
    if options.facts is not None:
        return facts_corpus(config, options.facts, options.templates)
    if options.templates is not None:
        raise ConfigError("--templates are the wordings of --facts; text has none")
    assert options.text is not None
    return text_corpus(config, options.text)


@dataclass
class _Course:
    """Steps of learning: what they took, and what the pair knew on the way.

    Attributes:
        pair: that learns.
        tests: of new and of old data, by name.
        progress: sees both.
        step: steps that were done.
        seconds: that they took.
        curve: what was measured, one row each time.
    """

    pair: Pair
    tests: dict[str, KnowledgeTest]
    progress: TaskProgress
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def point(self, of: str) -> None:
        """Measures; `of`: what learned last, and how far."""
        new, old = (
            asdict(test.measure(self.pair, name == "new", _of(self.progress, name)))
            for name, test in self.tests.items()
        )
        self.curve.append({"step": self.step, "seconds": self.seconds, "new": new, "old": old})
        self.progress.says(f"{of}, {_line(self.curve[-1])}")

    def take(self, who: str, steps: int, train_step: Callable[[], float], points: int) -> None:
        """Takes so many steps, and measures so many times.

        Raises:
            DivergedError: as `train_step`.
        """
        every = -(-steps // points)
        for done in range(1, steps + 1):
            self.progress(f"{who} learns", done - 1, steps)
            began = time.perf_counter()
            train_step()
            self.seconds += time.perf_counter() - began
            self.step += 1
            if done % every == 0 or done == steps:
                self.point(f"{who}: step {done}/{steps}")


def _learn(
    config: Config,
    export: str,
    given: CorpusSpec,
    options: LearnOptions,
    source: OldFrom,
    progress: TaskProgress,
) -> tuple[dict[str, Any], Any, Any, Any]:
    """What was learned and lost, the pair after it, its tokenizer, and windows of old text."""
    import torch

    from actors.corpus.corpus import Corpus
    from actors.learning.learner import Learner
    from actors.learning.port_learner import PortLearner
    from actors.measuring.knowledge import KnowledgeTest
    from actors.weights.pair_export import load_pair
    from jobs.learn.told_again import ToldAgain

    workers = config.memory.workers
    torch.set_num_threads(max(1, int(workers.cpus)))
    on_card = workers.gpus > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if on_card else "cpu")
    keeps_model = config.data.layer.keeps_model
    trains_port = keeps_model if options.port is None else options.port
    plan = LearnPlan(
        steps=options.steps or default_steps(config, given),
        assist=0.0 if keeps_model and trains_port else 1.0,  # the port follows, for less
        lr=default_lr(config.memory.value_lr) if options.lr is None else options.lr,
        old_frac=options.old_frac,
        seed=config.seed if options.seed is None else options.seed,
    )
    port_plan = _port_plan(config, plan) if trains_port else None
    progress("loading the pair")
    pair, tokenizer = load_pair(export, progress)
    pair.data.to(device)
    pair.memory.to(device)
    new_config = config.model_copy(update={"corpus": given})
    new_corpus = Corpus.open(new_config, tokenizer)
    subjects = {f.subject for f in new_corpus.facts.facts} if new_corpus.facts else set()
    progress("opening old data")
    old = open_old(config, pair.memory, tokenizer, source, plan.seed, subjects, progress)
    exams = {
        name: [
            KnowledgeTest(spec, corpus, device, final, general=final and name == "old")
            for final in (True, False)
        ]
        for name, spec, corpus in (
            ("new", new_config, new_corpus),
            ("old", config, old.measured),
        )
    }
    how = _how(plan, port_plan)
    progress.says(f"learning {given.described}: {how}; measuring first")

    def examine() -> dict[str, Any]:
        return {
            name: asdict(final.measure(pair, progress=_of(progress, name)))
            for name, (final, _) in exams.items()
        }

    before = examine()
    told = ToldAgain(pair, tokenizer)
    learner = Learner(config, pair, new_corpus, old.rehearsed, plan)
    course = _Course(pair, {name: short for name, (_, short) in exams.items()}, progress)
    course.point("before")
    points = FEW_POINTS if config.data.layer.keeps_some else CURVE_POINTS
    course.take("the memory", plan.steps, learner.train_step, points)
    if port_plan is not None:
        port = PortLearner(config, pair, new_corpus, old.rehearsed, port_plan, learner.before)
        course.take("the port", port_plan.steps, port.train_step, FEW_POINTS)
        port.finish()
    if pair.memory.kept is None:  # of a run of an earlier version
        pair.memory.kept = old.sample(config.memory.kept_reads)
    told_again = told.tell(pair.memory.kept)
    after = examine()
    learned = {
        "how": f"{how}, {plan.old_frac:.0%} old data from the {source}; the model as it was",
        "corpus": list(given.paths),
        "facts": count_facts(new_corpus, old.measured),
        "steps": plan.steps,
        "lr": plan.lr,
        "port": None if port_plan is None else {"steps": port_plan.steps, "lr": port_plan.lr},
        "old_data": plan.old_frac,
        "old_from": source,
        "seed": plan.seed,
        "seconds": course.seconds,
        "new_tokens": learner.learned.new_tokens,
        "old_tokens": learner.learned.old_tokens,
        "rows_changed": learner.rows_changed,
        "num_rows": config.memory.layer.num_slots,
        **{name: {"before": before[name], "after": after[name]} for name in exams},
        "curve": course.curve,
        "told": told_again,
    }
    return learned, pair, tokenizer, old.measured.heldout(config.evaluation.windows)


def default_steps(config: Config, given: CorpusSpec) -> int:
    """Steps of the memory where none are given."""
    if not config.data.layer.keeps_some:
        return STEPS
    return fitting_steps(given, config.memory.batch_size, config.seed)


def _port_plan(config: Config, plan: LearnPlan) -> PortPlan:
    """The port's steps: at the rate that it had in the run."""
    lr = config.data.own_port_lr or config.data.optimizer.lr
    steps = max(1, round(PORT_FRAC * plan.steps))
    return PortPlan(steps=steps, lr=lr, old_frac=plan.old_frac, seed=plan.seed)


def _how(plan: LearnPlan, port_plan: PortPlan | None) -> str:
    how = f"{plan.steps} steps of every weight of the memory"
    return how if port_plan is None else f"{how}, then {port_plan.steps} of its port"


def _of(progress: Progress, corpus: str) -> Progress:
    """The same, with the corpus that is measured in what it says."""

    def measured(what: str, done: int = 0, total: int | None = None) -> None:
        progress(f"{corpus} corpus: {what}", done, total)

    return measured


def count_facts(new: Any, old: Any) -> dict[str, int] | None:
    """Numbers of given facts, of those that the run has, of those with another object there, and of
    those with another object among themselves.
    """
    if new.facts is None:
        return None
    own: dict[tuple[str, str], set[str]] = {}
    for fact in old.facts.facts if old.facts else ():
        own.setdefault((fact.relation, fact.subject), set()).add(fact.object)
    objects: dict[tuple[str, str], set[str]] = {}
    for fact in new.facts.facts:
        objects.setdefault((fact.relation, fact.subject), set()).add(fact.object)
    pairs = [(f.object, own.get((f.relation, f.subject))) for f in new.facts.facts]
    return {
        "given": len(pairs),
        "in_run": sum(known is not None and given in known for given, known in pairs),
        "contradicting": sum(known is not None and given not in known for given, known in pairs),
        "among_themselves": sum(len(several) for several in objects.values() if len(several) > 1),
    }


def _line(point: dict[str, Any]) -> str:
    new, old = point["new"], point["old"]
    heldout = f"new loss {new['heldout']['help_loss']:.3f}, old {old['heldout']['help_loss']:.3f}"
    line = f"{point['seconds']:.0f} s: with memory {heldout}"
    for section, what in (("accuracy", "held out"), ("accuracy_seen", "trained on")):
        if new[section]:
            line += f", new answers {what} {new[section]['help']:.2f}"
    return line


def _of_data_layer(learned: dict[str, Any]) -> str:
    if learned["port"] is None:
        return "the data layer is the run's"
    return "the model of the data layer is the run's, its memory port was trained"


def _print(learned: dict[str, Any], console: Console) -> None:
    for name, title in (
        ("new", "what was learned"),
        ("old", "what was kept and lost of the run's own"),
    ):
        table = Table(title=f"{title} ({UNITS})", title_justify="left")
        heads, rows = change_table(learned[name]["before"], learned[name]["after"])
        for heading in heads:
            table.add_column(heading, justify="right" if heading else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if facts := learned["facts"]:
        console.say(
            f"{facts['given']} facts, of which the run's corpus has {facts['in_run']} and "
            f"{facts['contradicting']} with another object"
        )
        if facts["among_themselves"]:
            console.say(
                f"{facts['among_themselves']} of them give one subject several objects, of which "
                "one question gets one",
                style="yellow",
            )
    console.say(
        f"{learned['new_tokens']:,} new and {learned['old_tokens']:,} old tokens in "
        f"{learned['seconds']:.0f} s; {learned['rows_changed']:,} of {learned['num_rows']:,} rows "
        f"of the value table changed; {_of_data_layer(learned)}"
    )
    marks = [learned["old"][when]["heldout"] for when in ("before", "after")]
    if "general_help_loss" in marks[0]:
        before, after = (m["general_help_loss"] for m in marks)
        console.say(f"general text, with memory: {before:.3f} → {after:.3f} nats per token")
    if told := learned.get("told"):
        console.say(
            f"what the run was told: {told['writes']} write(s), solved again for what was learned; "
            f"of {told['associations']} association(s) {told['answered_before']} were answered "
            f"before, {told['answered_untold']} by what was learned alone and {told['answered']} "
            "now"
        )
    console.say(f"report: {learned['out']}/{REPORT}")
