"""Tells a running run: by its mailbox, since its pair is in its groups' processes.

The memory group takes it at its next interval; every later version, checkpoint and the export have
it. Training itself does not change by a bit.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from actors.layers.named_writes import Association
from actors.wire import ConfigError
from jobs.control import refuse_content, send
from orchestrator.console import Console
from orchestrator.loop.command import ACCEPTED, TELL, UNTELL, Reply
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.run_dir.status import look
from orchestrator.settings.file_names import TOKENIZER


def tell_running(
    run_dir: RunDir,
    associations: Sequence[Association],
    id: str | None,
    console: Console,
    no_wait: bool,
) -> dict[str, Any]:
    """Has a running run told, and waits until it is.

    Args:
        run_dir: of the run.
        associations: what is told.
        id: name of the write; None: a new one.
        console: that shows the replies.
        no_wait: return once it is accepted.

    Raises:
        ConfigError: an association can't be told, there are too many, or the run refuses.
        TandemError: its driver does not reply.
    """
    _refuse_untellable(run_dir, associations)
    name = id if id is not None else f"w{secrets.token_hex(4)}"
    values = {"kind": TELL, "name": name, "associations": [a.to_json() for a in associations]}
    refuse_content(values, len(associations), "associations", "tell", "told")
    return _outcome(run_dir, name, send(run_dir, console, no_wait, **values))


def untell_running(run_dir: RunDir, id: str, console: Console, no_wait: bool) -> dict[str, Any]:
    """Has a running run take a write back. Raises: as `tell_running`."""
    return _outcome(run_dir, id, send(run_dir, console, no_wait, kind=UNTELL, name=id))


def told_running(run_dir: RunDir) -> list[dict[str, Any]]:
    """What the newest version of a running run's memory was told."""
    return list(look(run_dir).status.get("told", ()))


def _outcome(run_dir: RunDir, name: str, reply: Reply) -> dict[str, Any]:
    return {
        "run": run_dir.url,
        "id": name,
        "done": reply.state != ACCEPTED,
        "message": reply.message,
    }


def _refuse_untellable(run_dir: RunDir, associations: Sequence[Association]) -> None:
    """Raises: ConfigError: the run's tokenizer or window can't take an association."""
    from actors.measuring.told_keys import sequences
    from actors.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_json(run_dir.read(TOKENIZER))
    try:
        sequences(tokenizer, associations, saved_config(run_dir).corpus.window)
    except ValueError as err:
        raise ConfigError(f"this can't be told: {err}") from err
