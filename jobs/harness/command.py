"""The command `tandem lm-eval`: passes its arguments on; `jobs.cli` adds it to the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from actors.wire import ConfigError
from jobs.exit_codes import exit_codes
from jobs.harness.options import INSTALL

# All arguments are the harness' own, --help too.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def lm_eval(context: typer.Context) -> None:
    """Runs EleutherAI's lm-eval, which then knows the model `tandem`.

    Its name and arguments: --model tandem --model_args run=RUN,voice=help
    """
    with exit_codes():
        run_harness(context.args)


def run_harness(arguments: Sequence[str]) -> None:
    """Runs the harness' command with these arguments.

    It looks for no plug-ins: its registry is told of our model first.

    Raises:
        ConfigError: it is not installed; what is said of the pair is wrong.
    """
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry

        from jobs.harness.model import NAME
    except ImportError as err:
        raise ConfigError(f"tandem lm-eval needs lm-eval: {err}; {INSTALL}") from err
    if NAME not in model_registry:
        model_registry.register(NAME, target="jobs.harness.model:TandemLM")
    before = sys.argv
    sys.argv = ["lm-eval", *arguments]  # it reads nothing else
    try:
        cli_evaluate()
    finally:
        sys.argv = before
