"""`tandem teach`: the data layer of a finished run is taught lessons; its memory follows.

A finished run does not change. What is taught, and the text that the memory wrote for it, are
written into the directory of the result, which is then trained like any run: the same coordinator,
checkpoints, resume and report. Nothing of the run's corpus is opened. A run that still trains is
taught by `running`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.lessons.given_lessons import GivenLessons, merged, read_lessons, refuse_silent
from actors.lessons.lesson import Lesson, to_lines
from actors.lessons.lesson_files import read_kept_lessons
from actors.settings.teach import TeachSpec
from actors.wire import ConfigError
from jobs.control import is_running
from jobs.teach.options import TeachOptions
from jobs.teach.printed import print_lessons, print_taught
from jobs.teach.running import refuse_options, teach_running, told_lessons_of
from jobs.teach.taught_config import (
    EXAM,
    LESSONS,
    OWN_TEXT,
    TOLD,
    WRITTEN,
    Sources,
    batch_of,
    refuse_too_few,
    taught_config,
)
from jobs.teach.told_writes import told_after, told_lessons
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.run_dir.saved_config import config_at, saved_config
from orchestrator.run_dir.status import look
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, CORPUS, REPORT, STATUS, SUMMARY, TAUGHT
from orchestrator.settings.fitted_config import model_at

if TYPE_CHECKING:
    from actors.teaching.lesson_preparation import Prepared
    from actors.tokenizers.tokenizer import Tokenizer


def run_teach(run: str, options: TeachOptions, console: Console, as_json: bool) -> bool:
    """Teaches, writes the result, prints it, and returns whether the memory reflects it.

    Raises:
        ConfigError: not a finished run; wrong lessons; the result exists already; all is known.
        TandemError: as `orchestrator.run.train`; the result can be resumed.
    """
    began = time.time()
    run_dir = RunDir(run)
    if is_running(run_dir):
        _teach_running(run_dir, options, console, as_json)
        return True
    export = find_export(run)
    config = saved_config(run_dir)
    refuse_mixed(options, config)
    given = read_given(run_dir, config, options)
    out = RunDir(options.out or f"{run_dir.url}-taught")
    if not options.dry_run:
        config_at(config, out)  # a name that no run may have is refused at once
        refuse_existing(out)
        out.refuse_unwritable()
    start = Start.of(run_dir, config, export)
    with TaskProgress() as progress:
        taught = _prepare(config, start, out, given, options, progress, began)
    if isinstance(taught, list):
        print_lessons(taught, console, as_json)
        return True
    from orchestrator.run import train

    result = train(
        taught, Console(quiet=True) if as_json else console, started_at=began,
        in_process=not options.ray,
    )  # fmt: skip
    found = json.loads(out.read(TAUGHT))
    if as_json:
        console.print_json(json.dumps(found))
    else:
        print_taught(found, console)
        console.say(f"report: {out.url}/{REPORT}")
    return result.status != RunStatus.UNREFLECTED


def _teach_running(run_dir: RunDir, options: TeachOptions, console: Console, as_json: bool) -> None:
    """Raises: ConfigError, TandemError: as `teach_running`."""
    config = saved_config(run_dir)
    refuse_options(run_dir, options)
    refuse_mixed(options, config)
    if options.told is not None:
        lessons = told_lessons_of(run_dir, options.told)
    else:
        lessons = list(read_given(run_dir, config, options).lessons)
    view = Console(quiet=True) if as_json else console
    outcome = teach_running(run_dir, config, lessons, view, options.no_wait)
    if as_json:
        console.print_json(json.dumps(outcome))


def refuse_mixed(options: TeachOptions, config: Config) -> None:
    """Raises: ConfigError where not exactly one thing to teach is asked for, or a number is odd."""
    asked = {
        "--lessons FILE": options.lessons is not None,
        "--told [ID …]": options.told is not None,
        "--from-memory": options.from_memory,
    }
    if sum(asked.values()) != 1:
        given = " and ".join(name for name, is_there in asked.items() if is_there) or "nothing"
        raise ConfigError(f"give what is to be taught, one of {', '.join(asked)}; got {given}")
    usual = config.data.optimizer.lr / 2
    if options.lr is not None and not 0 < options.lr < float("inf"):
        raise ConfigError(f"--lr {options.lr:g}: expected a positive number, e.g. {usual:g}")


def read_given(run_dir: RunDir, config: Config, options: TeachOptions) -> GivenLessons:
    """The lessons of a file, or none. Raises: ConfigError: what is wrong with it."""
    if options.lessons is None:
        return GivenLessons(())
    summary = json.loads(run_dir.read(SUMMARY)) if run_dir.exists(SUMMARY) else {}
    digest = (summary.get("digest") or {}).get("memory")
    return read_lessons(options.lessons, options.templates or config.corpus.templates, digest)


def refuse_existing(out: RunDir) -> None:
    """Raises: ConfigError where there is a result, or one that was interrupted. What an interrupted
    preparation left is removed.
    """
    if not out.exists():
        return
    if out.exists(CONFIG) and not out.has_finished():
        raise ConfigError(
            f"{out.url}: this teaching was interrupted; go on with: "
            f"{look(out).resume_command(out)}, or choose another --out"
        )
    prepared = {LESSONS, OWN_TEXT, EXAM, WRITTEN, TOLD, CORPUS, STATUS}
    names = out.list_files("").keys()
    left = {name for name in names if name.removesuffix(".part") in prepared}
    if out.exists(CONFIG) or names - left or out.list_folders():
        raise ConfigError(
            f"{out.url} exists already; choose another --out, or remove it if it is not needed"
        )
    for name in left:
        out.remove(name)


def refuse_unteachable(given: GivenLessons, tokenizer: Tokenizer, window: int) -> None:
    """Raises: ConfigError where no line says what is wanted; a lesson without a token, or longer
    than a window.
    """
    from actors.teaching.lesson_preparation import refuse_longer

    if not given.lessons:
        raise ConfigError(
            f"no lesson says what is wanted: all {len(given.refused)} call an answer wrong, which "
            'is counted and teaches nothing; give the right one too ("answer")'
        )
    refuse_silent(given.lessons, lambda text: len(tokenizer.encode(text)))
    refuse_longer(given.lessons, tokenizer, window)


def refuse_hopeless_steps(
    steps: int | None, lessons: Sequence[Lesson], tokenizer: Tokenizer, config: Config
) -> None:
    """Raises: ConfigError where so few steps can't show all lessons, however few other wordings the
    memory knows: said before it writes for minutes.
    """
    if steps is not None:
        most, _ = TeachSpec().data_counts(batch_of(config), reworded=False)
        refuse_too_few(steps, num_windows(lessons, tokenizer, config.corpus.window), most)


def num_windows(lessons: Sequence[Lesson], tokenizer: Tokenizer, window: int) -> int:
    """Windows that the lessons fill in the wordings that they are given in."""
    from actors.lessons.lesson_windows import LessonWindows, documents_of

    documents = documents_of(lessons, given=True, reworded=False)
    return len(LessonWindows(documents, tokenizer, window, 0, "given"))


@dataclass(frozen=True)
class Start:
    """What a teaching begins with.

    Attributes:
        export: of the first data layer and its memory: of a run that was taught before, that of the
            run that was taught first, so that teachings do not add up.
        own: export of the run itself.
        lessons: that were taught before.
        run: whose directory was given.
    """

    export: str
    own: str
    lessons: list[Lesson]
    run: str

    @classmethod
    def of(cls, run_dir: RunDir, config: Config, export: str) -> Start:
        """Of a run, taught before or not."""
        if not (config.teach.is_on and run_dir.exists(TAUGHT)):
            return cls(export, export, [], run_dir.url)
        first = config.data.layer.pretrained
        assert first is not None
        try:
            find_export(first)
        except ConfigError as err:
            raise ConfigError(
                f"{run_dir.url} was taught from {first}, from which all of its lessons are taught "
                f"anew together with these, and that is not there any more: {err}"
            ) from err
        earlier = [
            replace(
                lesson, reworded=(), known=False, source=f"{run_dir.url}/{LESSONS}: {lesson.prompt}"
            )
            for lesson in read_kept_lessons(config.teach)
        ]
        return cls(first, export, earlier, run_dir.url)


def _prepare(
    config: Config,
    start: Start,
    out: RunDir,
    given: GivenLessons,
    options: TeachOptions,
    progress: TaskProgress,
    began: float,
) -> Config | list[Lesson]:
    """Writes what the run begins with into its directory, and returns its config; of a dry run
    the lessons.
    """
    import torch

    from actors.teaching.lesson_preparation import prepare_lessons, uncontradicting, written_texts
    from actors.teaching.own_text import can_write, own_texts
    from actors.teaching.unknown_lessons import SHARP, unknown_lessons
    from actors.weights.pair_export import load_pair

    window = config.corpus.window
    seed = config.seed if options.seed is None else options.seed
    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(config.data.workers.cpus)))
    try:
        progress("loading the pair")
        pair, tokenizer = load_pair(start.export, progress)
        here = pair if start.export == start.own else load_pair(start.own)[0]
        if options.told is not None:
            given = told_lessons(here.memory.writes, options.told, start.run)
        if not options.from_memory:
            refuse_unteachable(given, tokenizer, window)
            lessons, _ = merged(start.lessons, given.lessons)
            refuse_hopeless_steps(options.steps, lessons, tokenizer, config)
            if options.dry_run:
                return lessons
        documents = f"the memory writes {options.written:,} documents"
        write = partial(written_texts, pair, tokenizer, options.written, seed, window, progress)
        if options.from_memory:
            progress.says(f"{documents}, in which it is sharper than it is")
            unknown = unknown_lessons(pair, tokenizer, write(SHARP), progress)
            given = GivenLessons(tuple(unknown))
        lessons, num_replaced = merged(start.lessons, given.lessons)
        if options.dry_run:
            return lessons
        progress.says(documents)
        texts = write()
        size = model[0] if (model := model_at(start.export)) else None
        prepared = prepare_lessons(
            pair, tokenizer, lessons, texts, window, seed, options.reword, options.tell,
            progress.says, progress,
        )  # fmt: skip
        own: list[str] = []
        if (size is None or size.is_small) and can_write(pair, tokenizer, texts, window):
            found = own_texts(pair.data, tokenizer, options.written, seed, window, progress)
            new = [lesson for lesson in prepared.lessons if not lesson.known]
            own = uncontradicting(found, new, tokenizer)
    finally:
        torch.set_num_threads(num_threads)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in prepared.texts)
    text = "".join(lines)
    told = prepared.told
    rows = None if told is None else told.rows
    teach = TeachSpec(
        told=None if rows is None else out.path(TOLD),
        memory_train="values" if told is None or rows is not None else "nothing",
        own_text=out.path(OWN_TEXT) if own else None,
        **({} if options.rehearse is None else {"rehearse": options.rehearse}),
    )
    sources = Sources(
        data=start.export,
        memory=start.export,
        num_bytes=len(text.encode()),
        num_windows=num_windows(prepared.lessons, tokenizer, window),
        has_reworded=any(lesson.reworded for lesson in prepared.lessons),
        size=size,
    )
    taught = taught_config(
        config, out, sources, options.steps, options.lr, options.seed, teach, options.train
    )
    facts = _facts(prepared, start, given, num_replaced, time.time() - began)
    progress.says(
        f"teaching {len(prepared.lessons) - prepared.num_known} lessons, and keeping "
        f"{prepared.num_known} that are known, in "
        f"{taught.total_steps('data')} steps"
    )
    out.write(LESSONS, to_lines(prepared.lessons))
    out.write(WRITTEN, text)
    if own:
        out.write(OWN_TEXT, json.dumps(own, ensure_ascii=False))
    if rows is not None:
        out.write(TOLD, rows.to_bytes())
    writes = told_after(here.memory.writes, prepared.lessons, () if told is None else told.near)
    out.write(EXAM, replace(prepared.exam, facts=facts, told=tuple(writes)).to_json())
    return taught


def _facts(
    prepared: Prepared, start: Start, given: GivenLessons, num_replaced: int, prepare_s: float
) -> dict[str, Any]:
    """What the report says of how the lessons came about."""
    return {
        "run": start.run,
        "first": start.export,
        "given": len(given.lessons),
        "earlier": len(start.lessons),
        "replaced": num_replaced,
        "repeated": given.num_repeated,
        "known": prepared.num_known,
        "refused": [{"prompt": r.prompt, "said": r.said} for r in given.refused],
        "prepare_s": prepare_s,
        **prepared.figures,
    }
