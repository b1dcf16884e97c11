"""`tandem learn`: the memory of a finished run learns new facts or text, its data layer frozen.

The run does not change; the result is a directory of its own, which `ask`, `evaluate` and
`jobs.api.load` take like a run. One process, without Ray.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from actors.machine.progress import Progress
from actors.settings.corpus import CorpusSpec
from actors.settings.learn_plan import LearnPlan, default_lr
from actors.wire import ConfigError
from jobs.learn.new_corpus import facts_corpus, text_corpus
from jobs.learn.old_data import OldFrom, old_from, open_old
from orchestrator.console import Console
from orchestrator.reporting.learn_report import UNITS, change_table
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.file_names import REPORT, SUMMARY

CURVE_POINTS = 6
STEPS, OLD_FRAC = 400, 0.25  # where the command is given none


@dataclass(frozen=True)
class LearnOptions:
    """Options of the command; None: the default.

    Attributes:
        facts, text: path of what is to be learned, one of them.
        templates: wordings of the facts.
        out: directory of the result.
        steps, lr, old_frac, seed: as `LearnPlan`.
        old_from: where old data comes from: what the memory writes, or the run's corpus; None: from
            the memory where it can write.
    """

    facts: str | None = None
    text: str | None = None
    templates: str | None = None
    out: str | None = None
    steps: int = STEPS
    lr: float | None = None
    old_frac: float = OLD_FRAC
    seed: int | None = None
    old_from: OldFrom | None = None


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
    kept = _config_at(config, out)
    usual_lr = default_lr(config.memory.value_lr)
    if options.lr is not None and not 0 < options.lr < float("inf"):
        raise ConfigError(f"--lr {options.lr:g}: expected a positive number, e.g. {usual_lr:g}")
    if out.exists():
        raise ConfigError(
            f"{out.url} exists already; choose another --out, or remove it if it is not needed"
        )

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


def _config_at(config: Config, out: RunDir) -> Config:
    """The run's config for a run at `out`. Raises: ConfigError: its name is not valid for a run."""
    storage, _, name = out.url.rpartition("/")
    values = config.model_dump(mode="json", by_alias=True)
    return make_config({**values, "name": name, "storage": storage or "."}, source=f"--out {name}")


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
    from actors.measuring.knowledge import KnowledgeTest
    from actors.pair.learner import Learner
    from actors.weights.pair_export import load_pair
    from jobs.learn.told_again import ToldAgain

    workers = config.memory.workers
    torch.set_num_threads(max(1, int(workers.cpus)))
    on_card = workers.gpus > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if on_card else "cpu")
    plan = LearnPlan(
        steps=options.steps,
        lr=default_lr(config.memory.value_lr) if options.lr is None else options.lr,
        old_frac=options.old_frac,
        seed=config.seed if options.seed is None else options.seed,
    )
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
    how = f"{plan.steps} steps, every weight of the memory"
    progress.says(f"learning {given.described}: {how}; measuring first")

    def examine() -> dict[str, Any]:
        return {
            name: asdict(final.measure(pair, progress=_of(progress, name)))
            for name, (final, _) in exams.items()
        }

    before = examine()
    told = ToldAgain(pair, tokenizer)
    learner = Learner(config, pair, new_corpus, old.rehearsed, plan)
    seconds, curve = 0.0, []

    def point() -> None:
        new, old = (
            asdict(exams[n][1].measure(pair, n == "new", _of(progress, n))) for n in ("new", "old")
        )
        curve.append({"step": learner.step, "seconds": seconds, "new": new, "old": old})
        progress.says(_line(curve[-1], plan.steps))

    point()
    every = -(-plan.steps // CURVE_POINTS)
    while learner.step < plan.steps:
        progress("learning", learner.step, plan.steps)
        began = time.perf_counter()
        learner.train_step()
        seconds += time.perf_counter() - began
        if learner.step % every == 0 or learner.step == plan.steps:
            point()
    if pair.memory.kept is None:  # of a run of an earlier version
        pair.memory.kept = old.sample(config.memory.kept_reads)
    told_again = told.tell(pair.memory.kept)
    after = examine()
    learned = {
        "how": f"{how}, {plan.old_frac:.0%} old data from the {source}, data layer frozen",
        "corpus": list(given.paths),
        "facts": _count(new_corpus, old.measured),
        "steps": plan.steps,
        "lr": plan.lr,
        "old_data": plan.old_frac,
        "old_from": source,
        "seed": plan.seed,
        "seconds": seconds,
        "new_tokens": learner.learned.new_tokens,
        "old_tokens": learner.learned.old_tokens,
        "rows_changed": learner.rows_changed,
        "num_rows": config.memory.layer.num_slots,
        **{name: {"before": before[name], "after": after[name]} for name in exams},
        "curve": curve,
        "told": told_again,
    }
    return learned, pair, tokenizer, old.measured.heldout(config.evaluation.windows)


def _of(progress: Progress, corpus: str) -> Progress:
    """The same, with the corpus that is measured in what it says."""

    def measured(what: str, done: int = 0, total: int | None = None) -> None:
        progress(f"{corpus} corpus: {what}", done, total)

    return measured


def _count(new: Any, old: Any) -> dict[str, int] | None:
    """Numbers of given facts, of those that the run has, and of those with another object there."""
    if new.facts is None:
        return None
    own: dict[tuple[str, str], set[str]] = {}
    for fact in old.facts.facts if old.facts else ():
        own.setdefault((fact.relation, fact.subject), set()).add(fact.object)
    pairs = [(f.object, own.get((f.relation, f.subject))) for f in new.facts.facts]
    return {
        "given": len(pairs),
        "in_run": sum(known is not None and given in known for given, known in pairs),
        "contradicting": sum(known is not None and given not in known for given, known in pairs),
    }


def _line(point: dict[str, Any], steps: int) -> str:
    new, old = point["new"], point["old"]
    heldout = f"new loss {new['heldout']['help_loss']:.3f}, old {old['heldout']['help_loss']:.3f}"
    line = f"step {point['step']}/{steps}, {point['seconds']:.0f} s: with memory {heldout}"
    for section, what in (("accuracy", "held out"), ("accuracy_seen", "trained on")):
        if new[section]:
            line += f", new answers {what} {new[section]['help']:.2f}"
    return line


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
    console.say(
        f"{learned['new_tokens']:,} new and {learned['old_tokens']:,} old tokens in "
        f"{learned['seconds']:.0f} s; {learned['rows_changed']:,} of {learned['num_rows']:,} rows "
        "of the value table changed; the data layer is the run's"
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
