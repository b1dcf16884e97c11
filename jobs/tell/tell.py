"""`tandem tell`, `told` and `untell`: a finished run's pair in place, in this process, without Ray;
a running run by its mailbox.

What was trained keeps its bytes: see `actors.weights.writes_store`.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from actors.formats import ABSENT, text_size
from actors.wire import ConfigError
from jobs.control import is_running
from jobs.tell.associations import Given, associations_of
from jobs.tell.running import tell_running, told_running, untell_running
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.file_names import CONFIG

if TYPE_CHECKING:
    from jobs.tell.told_pair import ToldResult

TABLE_LINES = 20
PROMPT_CHARS = 60  # of an association in a list


def run_tell(
    run: str, given: Given, id: str | None, console: Console, as_json: bool, no_wait: bool
) -> dict[str, Any]:
    """Tells the run's pair, prints and returns what it says now.

    Raises:
        ConfigError: no finished run there; or what can't be told, and why.
        StorageError: it can't be kept; nothing changed.
    """
    associations = associations_of(given, templates_of(run))
    if is_running(run_dir := RunDir(run)):
        shown = Console(stderr=True) if as_json else console
        reply = tell_running(run_dir, associations, id, shown, no_wait)
        if as_json:
            console.print_json(json.dumps(reply))
        return reply
    export = find_export(run)
    from jobs.tell.told_pair import ToldPair, run_sample

    began = time.perf_counter()
    with TaskProgress() as progress:
        progress("loading the pair")
        pair = ToldPair(export, run_sample(run_dir), progress)
        loaded_s = time.perf_counter() - began
        told = pair.tell(associations, id, progress.says, progress)
    result = {"run": run, **told.to_json(), "load_s": round(loaded_s, 3)}
    if as_json:
        console.print_json(json.dumps(result))
    else:
        _print_told(told, loaded_s, run, console)
    return result


def templates_of(run: str) -> str | None:
    """The wordings of the run's own corpus; None: it has none, or is an export alone."""
    run_dir = RunDir(run)
    if not run_dir.exists(CONFIG):
        return None
    return saved_config(run_dir).corpus.templates


def _print_told(told: ToldResult, loaded_s: float, run: str, console: Console) -> None:
    table = Table(title=f"write {told.write.id}", title_justify="left")
    for heading in ("prompt", "told", "said before", "says now"):
        table.add_column(heading, overflow="fold")
    for said in told.said[:TABLE_LINES]:
        table.add_row(said.prompt, said.answer, said.before, said.after)
    console.print(table)
    num, num_right = len(told.said), sum(said.right for said in told.said)
    total = len(told.write.associations)
    asked = f"{num_right} of the first {num}" if total > num else f"{num_right} of {num}"
    console.say(
        f"{asked} answered as told; {total} association(s), {len(told.write.keys):,} tokens, "
        f"{text_size(told.write.num_bytes)}, in {told.seconds:.2f} s and {loaded_s:.1f} s to "
        "load the pair"
    )
    if num_right < num:
        console.say(
            "what is not answered yet may need more wordings (--say, or more templates); or take "
            f"it back: tandem untell {run} {told.write.id}",
            style="yellow",
        )


def run_told(run: str, console: Console, as_json: bool) -> list[dict[str, Any]]:
    """Lists the writes of a run's pair.

    Raises:
        ConfigError: no finished run there, or a write's file is damaged.
    """
    run_dir = RunDir(run)
    if is_running(run_dir):
        rows = told_running(run_dir)
    else:
        export = find_export(run)
        from actors.weights.writes_store import WritesStore
        from jobs.tell.told_pair import described

        rows = [described(write) for write in WritesStore(export).read().writes]
    if as_json:
        console.print_json(json.dumps({"run": run, "writes": rows}))
    elif not rows:
        console.say(f"{run}: nothing was told, or all of it was taken back")
    else:
        table = Table()
        for heading in ("id", "told", "what", "tokens", "bytes", "on"):
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    first, num = row["associations"][0], len(row["associations"])
    text = f"{first['prompt']} {first['answer']}"
    text = text if len(text) <= PROMPT_CHARS else f"{text[:PROMPT_CHARS]}…"
    named = [
        row["id"],
        datetime.fromtimestamp(row["told_at"]).strftime("%Y-%m-%d %H:%M:%S"),
        text if num == 1 else f"{text} and {num - 1} more",
    ]
    if "tokens" not in row:  # of a running run: told anew to each version
        return [*named, ABSENT, ABSENT, "on"]
    size = [f"{row['tokens']:,}", text_size(row["bytes"])]
    return [*named, *size, ("on" if row["on"] else "off") + (", taught" if row["taught"] else "")]


def run_untell(
    run: str, id: str, off: bool, on: bool, console: Console, as_json: bool, no_wait: bool
) -> dict[str, Any]:
    """Takes a write back, or switches it off or on; prints and returns it.

    Raises:
        ConfigError: no finished run there; no write of that name, with the nearest; both switches.
        StorageError: it can't be changed; nothing changed.
    """
    if off and on:
        raise ConfigError("give either --off or --on")
    if is_running(run_dir := RunDir(run)):
        if off or on:
            raise ConfigError(
                f"{run_dir.url} is running: a write of a running run can be taken back, but not "
                "switched; tell it again later, or switch it once the run has ended"
            )
        shown = Console(stderr=True) if as_json else console
        reply = untell_running(run_dir, id, shown, no_wait)
        if as_json:
            console.print_json(json.dumps(reply))
        return reply
    export = find_export(run)
    from jobs.tell.told_pair import ToldPair, described, run_sample

    with TaskProgress() as progress:
        progress("loading the pair")
        pair = ToldPair(export, run_sample(run_dir), progress)
        progress("taking it back")
        say = progress.says
        write = pair.switch(id, on, say) if off or on else pair.untell(id, say)
    done = "switched on" if on else "switched off" if off else "taken back"
    result = {"run": run, **described(write), "done": done}
    if as_json:
        console.print_json(json.dumps(result))
    else:
        console.say(f"write {id} is {done}; {len(pair.writes)} write(s) are kept")
    return result
