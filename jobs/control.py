"""Commands to a running run: stop, checkpoint, scale; and to a stopped one: resume.

A command is a small file in the run's mailbox, so all that is needed is the run's storage. Waits
for the reply and prints it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from actors.wire import ConfigError, TandemError
from orchestrator.console import Console
from orchestrator.loop.command import ACCEPTED, CHECKPOINT, DONE, RESIZE, STOP, Command, Reply
from orchestrator.run_dir.mailbox import LARGEST_BYTES, Mailbox, new_id
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.run_dir.status import Seen, look
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import CONFIG
from orchestrator.settings.mistakes import explain

POLL_S = 0.3
REPLY_S = 60.0  # for the driver's first reply
CARRIED_OUT_S = 3600.0  # intervals may be long, and new nodes may take long to start


def run_stop(run: str, console: Console, no_wait: bool) -> None:
    """Stops a run after a checkpoint, and waits until it has ended.

    Raises:
        ConfigError: no such run, or it is not running.
        TandemError: its driver does not reply.
    """
    run_dir = RunDir(run)
    send(run_dir, console, no_wait, kind=STOP)
    if not no_wait:
        console.say(f"continue with: {look(run_dir).resume_command(run_dir)}")


def run_checkpoint(run: str, console: Console, no_wait: bool) -> None:
    """Asks a running run for a checkpoint, and waits until it is written. Raises: as `run_stop`."""
    send(RunDir(run), console, no_wait, kind=CHECKPOINT)


def run_scale(
    run: str,
    data_workers: int | None,
    memory_workers: int | None,
    wait_s: float,
    console: Console,
    no_wait: bool,
) -> None:
    """Changes the numbers of workers of a running run.

    Raises:
        ConfigError: as `run_stop`; no number given; or refused, with the reason.
    """
    if data_workers is None and memory_workers is None:
        raise ConfigError("nothing to change: give --data-workers N, --memory-workers M or both")
    sizes = {"data_workers": data_workers, "memory_workers": memory_workers}
    send(RunDir(run), console, no_wait, kind=RESIZE, wait_s=wait_s, **sizes)


def run_resume(
    run: str,
    overrides: Sequence[str],
    console: Console,
    verbose: bool = False,
    in_process: bool = False,
) -> bool:
    """Continues a stopped or interrupted run; returns whether its memory caught up with the final
    data layer.

    Args:
        run: its directory; its own `config.yaml` is the config.
        overrides: of the settings that a resumed run may change.
        console: that shows progress.
        verbose: show Ray's own messages.
        in_process: train in this process, without Ray.

    Raises:
        ConfigError: no such run, or it is running or finished.
        TandemError: as `orchestrator.run.train`.
    """
    from jobs.train import run_training

    run_dir = RunDir(run)
    if look(run_dir).state == RunStatus.NO_RUN:
        raise ConfigError(f"{run_dir.url}: {run_dir.no_run()}")
    storage, _, name = run_dir.url.rpartition("/")
    path = run_dir.path(CONFIG)
    if (expected := load_config(path, kept=True).name) != name:
        raise ConfigError(
            f"run {run_dir.url} is named {expected} in its {CONFIG}; call the directory "
            f"{expected}, as before (the folder that it is in may be another)"
        )
    at_storage = [f"storage={storage or '.'}", *overrides]
    how = {"resume": True, "in_process": in_process, "kept": True}
    return run_training(path, at_storage, console, verbose, **how)


def send(run_dir: RunDir, console: Console, no_wait: bool, **values: Any) -> Reply:
    """Posts a command, waits for its outcome, and returns the last reply.

    Raises:
        ConfigError: it was refused.
        TandemError: the driver does not reply.
    """
    seen = look(run_dir)
    refuse_unless_running(run_dir, seen)
    command = Command(id=new_id(), run=seen.status["run"], driver=seen.driver, **values)
    box = Mailbox(run_dir)
    box.post(command)
    reply = await_reply(lambda: box.reply_to(command.id), REPLY_S, lambda reply: True)
    if reply is None:
        box.withdraw(command.id)
        raise TandemError(
            f"run {run_dir.url} did not reply within {REPLY_S:.0f} s; the command was withdrawn; "
            f"see: tandem status {shlex.quote(run_dir.url)}"
        )
    if reply.state == ACCEPTED:
        console.say(f"accepted: {reply.message}")
        if no_wait:
            return reply
        reply = _await_last(run_dir, box, command)
    if reply.state != DONE:
        raise ConfigError(f"refused: {reply.message}")
    console.say(f"done: {reply.message}")
    return reply


def refuse_content(values: dict[str, Any], num: int, things: str, verb: str, done: str) -> None:
    """Refuses, before it is sent, a command that brings something to a run, in that run's words.

    Args:
        values: fields of the command.
        num, things: how much it brings, and the word for that: `associations`.
        verb, done: the words for what is asked: `tell`, `told`.

    Raises: ConfigError: it is no command, or too large for the mailbox.
    """
    try:
        text = Command(id=new_id(), run="run", driver="driver", **values).model_dump_json()
    except ValidationError as err:
        wrong = "; ".join(explain(err, lambda key: None))
        raise ConfigError(f"this can't be {done}: {wrong}") from err
    if len(text) > LARGEST_BYTES:
        raise ConfigError(
            f"{num:,} {things} are {len(text):,} bytes, and a running run takes "
            f"{LARGEST_BYTES:,} at once; {verb} fewer, or {verb} the run once it has ended"
        )


def is_running(run_dir: RunDir) -> bool:
    """Whether a driver would take a command now."""
    return look(run_dir).state == RunStatus.RUNNING


def refuse_unless_running(run_dir: RunDir, seen: Seen) -> None:
    """Raises: ConfigError: no driver runs that would receive a command."""
    if seen.state == RunStatus.RUNNING:
        return
    reasons: dict[str, str] = {
        RunStatus.NO_RUN: run_dir.no_run(),
        RunStatus.STARTING: "it is only starting, or its driver died before it began to train",
        RunStatus.SILENT: f"its driver's last update was {seen.age_s:.0f} s ago; it died. "
        f"Continue with: {seen.resume_command(run_dir)}",
    }
    ended = f"it has ended as {seen.state.replace('_', ' ')}"
    raise ConfigError(f"run {run_dir.url}: {reasons.get(seen.state, ended)}")


def _await_last(run_dir: RunDir, box: Mailbox, command: Command) -> Reply:
    reply = await_reply(
        lambda: box.reply_to(command.id),
        CARRIED_OUT_S,
        lambda reply: reply.state != ACCEPTED,
        lambda: is_running(run_dir),
    )
    if reply is None:
        raise TandemError(
            f"run {run_dir.url} did not report the outcome; see: tandem status {run_dir.url}"
        )
    return reply


def await_reply(
    ask: Callable[[], Reply | None],
    patience_s: float,
    is_enough: Callable[[Reply], bool],
    is_alive: Callable[[], bool] = lambda: True,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Reply | None:
    """The first reply that is enough; None if it does not come in time or the driver has ended.

    Args:
        ask: returns the newest reply.
        patience_s: how long to wait.
        is_enough: whether a reply ends the wait.
        is_alive: whether the driver may still reply; called rarely.
        wait, clock: sleep, and monotonic time.
    """
    deadline, next_look = clock() + patience_s, clock() + REPLY_S
    while clock() < deadline:
        reply = ask()
        if reply is not None and is_enough(reply):
            return reply
        if clock() > next_look:
            next_look = clock() + REPLY_S
            if not is_alive():
                reply = ask()  # it may have replied just before it ended
                return reply if reply is not None and is_enough(reply) else None
        wait(POLL_S)
    return None
