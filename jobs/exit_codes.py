"""How a command ends: errors become messages and exit codes. Called by `cli`.

Exit codes: 0 done; 1 the run failed; 2 the input was wrong; 3 done, but the memory did not catch up
with the final data layer; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from actors.wire import ConfigError, TandemError
from orchestrator.console import Console

FAILED, BAD_INPUT, UNREFLECTED, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Leaves with an exit code where what is inside raises one of our errors."""
    from orchestrator.errors import InterruptedRunError

    errors = Console(stderr=True)
    try:
        yield
    except ConfigError as err:
        _print_error(errors, err)
        raise typer.Exit(BAD_INPUT) from err
    except InterruptedRunError as err:
        errors.say(f"{err}", style="yellow")
        raise typer.Exit(INTERRUPTED) from err
    except TandemError as err:
        _print_error(errors, err)
        raise typer.Exit(FAILED) from err
    except KeyboardInterrupt as err:
        raise typer.Exit(INTERRUPTED) from err


def _print_error(console: Console, err: TandemError) -> None:
    text = f"{err.heading}: {err}"
    console.say(text, style="red")
