"""Arguments and options that several commands of `tandem` share."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Values of the config, e.g. seed=1 data.optimizer.lr=1e-3."
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, e.g. runs/quickstart.")
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address", metavar="URL", help="URL of the cluster's dashboard.", show_default=True
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Allow another machine without a token, or over plain HTTP."),
]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
InProcessOption = Annotated[
    bool,
    typer.Option(
        "--in-process", help="In this process, without Ray: for a breakpoint; the same bits."
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages too.")]
TemplatesOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="JSON file with templates of new facts; default: the run's."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return as soon as the run has accepted the command.")
]
