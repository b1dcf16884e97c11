"""Teaches a running run: by its mailbox, since its layers are in its groups' processes.

Both groups take the lessons at the first interval that neither has begun, and learn them beside the
corpus in every step from then on. Without what a finished run is taught with: no text is written,
no other wordings are found, and the corpus keeps what is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.lessons.lesson import Lesson
from actors.wire import ConfigError
from jobs.control import refuse_content, send
from jobs.teach.options import TeachOptions
from jobs.tell.running import told_running
from orchestrator.console import Console
from orchestrator.loop.command import ACCEPTED, TEACH
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import TOKENIZER

# Options that say how a finished run is taught, by the names of their fields.
OF_A_FINISHED_RUN = {
    "from_memory": "--from-memory",
    "dry_run": "--dry-run",
    "out": "--out",
    "steps": "--steps",
    "lr": "--lr",
    "rehearse": "--rehearse",
    "train": "--train",
    "seed": "--seed",
    "ray": "--ray",
}


def refuse_options(run_dir: RunDir, options: TeachOptions) -> None:
    """Raises: ConfigError where an option has no meaning for a run that goes on."""
    given = [name for field, name in OF_A_FINISHED_RUN.items() if getattr(options, field)]
    if given:
        raise ConfigError(
            f"{run_dir.url} is running: its groups learn the lessons beside the corpus, at the "
            f"run's own rates, and {', '.join(given)} is for a finished one; leave it out, or "
            "teach the run once it has ended"
        )


def told_lessons_of(run_dir: RunDir, ids: Sequence[str]) -> list[Lesson]:
    """What a running run was told, as lessons.

    Raises: ConfigError: it was told nothing, or nothing of that name.
    """
    told = {row["id"]: row["associations"] for row in told_running(run_dir)}
    if unknown := [id for id in ids if id not in told]:
        known = ", ".join(told) or "nothing"
        raise ConfigError(f"{run_dir.url}: no write {unknown[0]!r}; it was told: {known}")
    if not told:
        raise ConfigError(f"{run_dir.url}: its memory was told nothing; give --lessons FILE")
    chosen = [one for id in ids or told for one in told[id]]
    return [
        Lesson(one["prompt"].strip(), one["answer"].strip().rstrip(" ."), tuple(one["wordings"]),
               form="told", source=f"{run_dir.url}: told")
        for one in chosen
    ]  # fmt: skip


def teach_running(
    run_dir: RunDir, config: Config, lessons: Sequence[Lesson], console: Console, no_wait: bool
) -> dict[str, Any]:
    """Has a running run taught, and waits until both groups have begun to learn.

    Args:
        run_dir: of the run.
        config: the run's.
        lessons: what is taught.
        console: that shows the replies.
        no_wait: return once it is accepted.

    Raises:
        ConfigError: a lesson does not fit, there are too many, or the run refuses.
        TandemError: its driver does not reply.
    """
    _refuse_unlearnable(run_dir, config, lessons)
    rows = [
        {"prompt": one.prompt, "answer": one.answer, "wordings": list(one.wordings),
         "subject": one.subject or ""}
        for one in lessons
    ]  # fmt: skip
    values = {"kind": TEACH, "lessons": rows}
    refuse_content(values, len(rows), "lessons", "teach", "taught")
    reply = send(run_dir, console, no_wait, **values)
    return {
        "run": run_dir.url,
        "lessons": len(rows),
        "interval": reply.interval,
        "done": reply.state != ACCEPTED,
        "message": reply.message,
    }


def _refuse_unlearnable(run_dir: RunDir, config: Config, lessons: Sequence[Lesson]) -> None:
    """Raises: ConfigError: a lesson without a token, or longer than a window."""
    from actors.lessons.given_lessons import refuse_silent
    from actors.teaching.lesson_preparation import refuse_longer
    from actors.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_json(run_dir.read(TOKENIZER))
    refuse_silent(lessons, lambda text: len(tokenizer.encode(text)))
    refuse_longer(lessons, tokenizer, config.corpus.window)
