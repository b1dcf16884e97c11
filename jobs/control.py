"""Commands to a running run: stop, checkpoint, scale; and to one that has stopped: resume.

A command is a small file in the run's mailbox, so all that this needs is the run's storage. Waits
for the reply and says what became of it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.wire import ConfigError, TandemError
from orchestrator.console import Console
from orchestrator.loop.command import ACCEPTED, CHECKPOINT, DONE, RESIZE, STOP, Command, Reply
from orchestrator.run_dir.mailbox import Mailbox, new_id
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.status import NO_RUN, RUNNING, SILENT, STARTING, Seen, look
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import CONFIG

POLL_S = 0.3
HEARD_S = 60.0  # for the driver to reply at all
CARRIED_OUT_S = 3600.0  # an interval may be long, and a node slow to come


def run_stop(run: str, console: Console, no_wait: bool) -> None:
    """Stops a run after a checkpoint, and waits until it has ended.

    Raises:
        ConfigError: no such run, or none that runs.
        TandemError: its driver does not reply.
    """
    run_dir = RunDir(run)
    _send(run_dir, console, no_wait, kind=STOP)
    if not no_wait:
        _say(console, f"go on with: tandem resume {shlex.quote(run_dir.url)}")


def run_checkpoint(run: str, console: Console, no_wait: bool) -> None:
    """Asks a running run for a checkpoint, and waits until it is written. Raises: as `run_stop`."""
    _send(RunDir(run), console, no_wait, kind=CHECKPOINT)


def run_scale(
    run: str,
    data_workers: int | None,
    memory_workers: int | None,
    wait_s: float,
    console: Console,
    no_wait: bool,
) -> None:
    """Gives groups of a running run other numbers of workers.

    Raises:
        ConfigError: as `run_stop`; no number given; or refused, with the reason.
    """
    if data_workers is None and memory_workers is None:
        raise ConfigError("nothing to change: give --data-workers N, --memory-workers M or both")
    sizes = {"data_workers": data_workers, "memory_workers": memory_workers}
    _send(RunDir(run), console, no_wait, kind=RESIZE, wait_s=wait_s, **sizes)


def run_resume(run: str, overrides: Sequence[str], console: Console, verbose: bool = False) -> bool:
    """Goes on with a stopped or broken-off run; returns whether its memory has caught up with the
    final data layer.

    Args:
        run: its directory; its own `config.yaml` is the config.
        overrides: what a resumed run may set anew.
        console: where progress is shown.
        verbose: show Ray's own messages.

    Raises:
        ConfigError: no such run, or one that runs or is finished.
        TandemError: as `orchestrator.run.train`.
    """
    from jobs.train import run_training

    run_dir = RunDir(run)
    if look(run_dir).state == NO_RUN:
        raise ConfigError(f"{run_dir.url}: no run ({CONFIG} is missing)")
    storage, _, name = run_dir.url.rpartition("/")
    path = run_dir.path(CONFIG)
    if (expected := load_config(path).name) != name:
        raise ConfigError(
            f"run {run_dir.url} is named {expected} in its {CONFIG}; rename the directory back"
        )
    here = [f"storage={storage or '.'}", *overrides]
    return run_training(path, here, console, verbose, resume=True)


def _send(run_dir: RunDir, console: Console, no_wait: bool, **values: Any) -> None:
    """Posts a command and waits for what becomes of it.

    Raises:
        ConfigError: it was refused.
        TandemError: the driver is silent.
    """
    seen = look(run_dir)
    refuse_unheard(run_dir, seen)
    command = Command(id=new_id(), run=seen.status["run"], driver=seen.driver, **values)
    box = Mailbox(run_dir)
    box.post(command)
    reply = await_reply(lambda: box.reply_to(command.id), HEARD_S, lambda reply: True)
    if reply is None:
        box.withdraw(command.id)
        raise TandemError(
            f"run {run_dir.url} did not reply within {HEARD_S:.0f} s; the command was taken back; "
            f"look with: tandem status {shlex.quote(run_dir.url)}"
        )
    if reply.state == ACCEPTED:
        _say(console, f"accepted: {reply.message}")
        if no_wait:
            return
        reply = _await_last(run_dir, box, command)
    if reply.state != DONE:
        raise ConfigError(f"refused: {reply.message}")
    _say(console, f"done: {reply.message}")


def refuse_unheard(run_dir: RunDir, seen: Seen) -> None:
    """Raises: ConfigError where nobody would hear a command."""
    if seen.state == RUNNING:
        return
    reasons = {
        NO_RUN: f"no run ({CONFIG} is missing)",
        STARTING: "it is only starting, or its driver died before it began to train",
        SILENT: f"its driver was last heard of {seen.age_s:.0f} s ago; it died. Go on with: "
        f"tandem resume {shlex.quote(run_dir.url)}",
    }
    ended = f"it has ended as {seen.state.replace('_', ' ')}"
    raise ConfigError(f"run {run_dir.url}: {reasons.get(seen.state, ended)}")


def _await_last(run_dir: RunDir, box: Mailbox, command: Command) -> Reply:
    reply = await_reply(
        lambda: box.reply_to(command.id),
        CARRIED_OUT_S,
        lambda reply: reply.state != ACCEPTED,
        lambda: look(run_dir).state == RUNNING,
    )
    if reply is None:
        raise TandemError(
            f"run {run_dir.url} did not say what became of it; look with: tandem status "
            f"{run_dir.url}"
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
    """The first reply that is enough; None where it does not come in time, or nobody is left.

    Args:
        ask: for the newest reply.
        patience_s: how long to wait.
        is_enough: whether to wait no longer.
        is_alive: whether someone may still reply; asked rarely.
        wait, clock: of time.
    """
    deadline, next_look = clock() + patience_s, clock() + HEARD_S
    while clock() < deadline:
        reply = ask()
        if reply is not None and is_enough(reply):
            return reply
        if clock() > next_look:
            next_look = clock() + HEARD_S
            if not is_alive():
                reply = ask()  # its last act may have been a reply
                return reply if reply is not None and is_enough(reply) else None
        wait(POLL_S)
    return None


def _say(console: Console, text: str) -> None:
    console.say(text)
