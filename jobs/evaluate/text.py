"""`tandem evaluate --text FILE`: what any text, or chats, cost the three voices of a pair."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.table import Table

from actors.measuring.voices import VOICES
from actors.settings.corpus import FilesSpec
from actors.sources.columns import Columns
from actors.sources.corpus_sources import read_documents
from actors.sources.documents import Document
from actors.sources.paths import list_files
from actors.wire import ConfigError
from jobs.ask import HEADINGS
from jobs.learn.new_corpus import anchored, columns_in
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress

EVERY_ROW = "every row needs it"  # here no setting names another column


def read_texts(path: str) -> list[Document]:
    """The documents of files that a corpus could have: a file of text is one, each row of JSON
    lines or Parquet another. Columns are those of the usual names: `text`; `messages`; `prompt`
    and `completion`.

    Raises:
        ConfigError: they can't be read, are no UTF-8, have no such columns, or hold no text.
        StorageError: their storage is away.
    """
    place = anchored(path)
    given = FilesSpec(paths=(place,), **columns_in(place))
    columns = Columns(given.columns, given.row_kind, EVERY_ROW)
    found = [one for file in list_files(given.paths) for one in read_documents(file, columns)]
    if not found:
        raise ConfigError(f"{path}: no text in it; expected at least a sentence")
    return found


def run_text_evaluation(run: str, path: str, console: Console, as_json: bool) -> dict[str, Any]:
    """Measures, prints and returns the losses.

    Raises:
        ConfigError: no pair there, or the text can't be read.
        StorageError: a storage is away.
    """
    documents = read_texts(path)
    from actors.layers.pair import Pair
    from actors.measuring.text_losses import text_losses
    from jobs.api import load

    with TaskProgress() as progress:
        progress("loading the pair")
        model = load(run, progress=progress)
        assert model.words is not None
        pair = Pair(model.data_layer, model.memory_layer)
        found = text_losses(pair, model.words, documents, model.longest, progress=progress)
    result = {
        "run": run,
        "text": path,
        "tokens": found.num_tokens,
        "bytes": found.num_bytes,
        "windows": found.num_windows,
        "losses": found.losses,
        "stderr": {voice: _known(error) for voice, error in found.errors.items()},
        "bits_per_byte": {voice: found.bits_per_byte(voice) for voice in VOICES},
        "gain": found.gain,
        "gain_stderr": _known(found.gain_error),
        "mixing": found.mixing,
        "freshness": found.freshness,
    }
    if as_json:
        console.print_json(json.dumps(result))
        return result
    table = Table(
        title=f"{path}: {found.num_tokens:,} tokens, {found.num_bytes:,} bytes, "
        f"{found.num_windows:,} window{'s' if found.num_windows > 1 else ''}",
        title_justify="left",
    )
    for heading in ("", *(HEADINGS[voice] for voice in VOICES)):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("nats per token", *(f"{found.losses[v]:.4f}" for v in VOICES))
    table.add_row("standard error", *(_shown(found.errors[v]) for v in VOICES))
    table.add_row("perplexity", *(f"{math.exp(min(found.losses[v], 700)):,.2f}" for v in VOICES))
    table.add_row("bits per byte", *(f"{found.bits_per_byte(v):.4f}" for v in VOICES))
    console.print(table)
    fresh = "" if found.freshness is None else f", fresh {found.freshness:.2f}"
    console.say(
        f"the memory helps by {found.gain:+.4f} ± {_shown(found.gain_error)} nats per token; "
        f"λ {found.mixing:.2f}{fresh}"
    )
    return result


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _shown(error: float) -> str:
    return f"{error:.4f}" if math.isfinite(error) else "unknown"
