"""`tandem evaluate --text FILE`: what any text costs the three voices of a pair."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.table import Table

from actors.measuring.voices import VOICES
from actors.storage import locate, storage_errors
from actors.wire import ConfigError
from jobs.ask import HEADINGS
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress

LINES = (".jsonl", ".ndjson")  # a document per line, in its field `text`


def read_texts(path: str) -> list[str]:
    """The documents of a text file, which is one, or of JSON lines.

    Raises:
        ConfigError: it can't be read, is no UTF-8, or a line has no text.
        StorageError: its storage is away.
    """
    try:
        with storage_errors(path, "can't be read"):
            fs, place = locate(path)
            text = bytes(fs.cat_file(place)).decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: expected UTF-8, got other bytes ({err})") from err
    except (OSError, ValueError, ImportError) as err:
        raise ConfigError(f"{path}: can't be read: {err}; give a file of text") from err
    if not path.endswith(LINES):
        found = [text]
    else:
        found = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)["text"]
            except (ValueError, TypeError, KeyError) as err:
                raise ConfigError(
                    f'{path}, line {number}: expected {{"text": "…"}}, got {line[:60]!r}'
                ) from err
            if not isinstance(content, str):
                raise ConfigError(f"{path}, line {number}: text: expected text, got {content!r}")
            found.append(content)
    if not any(one.strip() for one in found):
        raise ConfigError(f"{path}: no text in it; expected at least a sentence")
    return [one for one in found if one.strip()]


def run_text_evaluation(run: str, path: str, console: Console, as_json: bool) -> dict[str, Any]:
    """Measures, prints and returns the losses.

    Raises:
        ConfigError: no pair there, or the text can't be read.
        StorageError: a storage is away.
    """
    texts = read_texts(path)
    from actors.layers.pair import Pair
    from actors.measuring.text_losses import text_losses
    from jobs.api import load

    with TaskProgress() as progress:
        progress("loading the pair")
        model = load(run)
        assert model.words is not None
        pair = Pair(model.data_layer, model.memory_layer)
        found = text_losses(pair, model.words, texts, model.longest, progress=progress)
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
        f"{found.num_windows:,} windows",
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
