"""How a command ends: errors become messages and exit codes.

Exit codes: 0 done; 1 the run failed; 2 the input was wrong; 3 done, but the memory did not catch up
with the final data layer; 4 storage was unreachable or full; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from actors.wire import ConfigError, StorageError, TandemError
from orchestrator.console import Console

FAILED, BAD_INPUT, UNREFLECTED, STORAGE_AWAY, INTERRUPTED = 1, 2, 3, 4, 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns our errors inside the block into a message and an exit code."""
    from orchestrator.errors import InterruptedRunError

    errors = Console(stderr=True)
    try:
        yield
    except ConfigError as err:
        _print_error(errors, err)
        raise typer.Exit(BAD_INPUT) from err
    except StorageError as err:
        _print_error(errors, err)
        raise typer.Exit(STORAGE_AWAY) from err
    except InterruptedRunError as err:
        errors.say(f"{err}", style="yellow")
        raise typer.Exit(INTERRUPTED) from err
    except TandemError as err:
        _print_error(errors, err)
        raise typer.Exit(FAILED) from err
    except KeyboardInterrupt as err:
        if str(err):  # what of the work is left
            errors.say(f"{err}", style="yellow")
        raise typer.Exit(INTERRUPTED) from err


def _print_error(console: Console, err: TandemError) -> None:
    text = f"{err.heading}: {err}"
    console.say(text, style="red")
