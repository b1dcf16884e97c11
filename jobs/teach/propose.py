"""`tandem propose`: answers to choose from, by the memory of a finished run.

A person fills in the number of the wanted one, and `tandem teach --lessons` teaches it. Trains
nothing, and reads nothing of the run's corpus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from actors.settings.run import RunSpec
from actors.sources.text_file import EncodingError, lines_of, read_text
from actors.storage import storage_errors
from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.file_names import SUMMARY

WRITTEN = 6000  # documents that the memory writes, to find wordings and what they end in
KEYS = {"prompt", "subject"}
ENDINGS = (".txt", ".jsonl", ".json", ".gz")  # of files of prompts


@dataclass(frozen=True)
class Asked:
    """A prompt, and its subject where it is given."""

    prompt: str
    subject: str | None = None


def run_propose(
    run: str,
    given: str,
    num: int,
    console: Console,
    as_json: bool = False,
    written: int = WRITTEN,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Prints and returns answers to one prompt, or to each of a file.

    Args:
        run: a finished run.
        given: a prompt; or a file of prompts, one a line, or JSON lines of prompt and subject.
        num: answers to each.
        console: for a file, and with `as_json`, gets JSON lines as `tandem teach` reads them.
        as_json: JSON for a single prompt too.
        written: documents that the memory writes first.
        seed: of these; None: the run's.

    Raises:
        ConfigError: not a finished run; a malformed line.
    """
    export, run_dir = find_export(run), RunDir(run)
    if os.path.isdir(given):
        raise ConfigError(f"{given}: a folder; give the beginning of a sentence, or a file of them")
    is_file = os.path.isfile(given) or "://" in given or is_file_name(given)
    asked = read_prompts(given) if is_file else [Asked(given.strip())]
    if not asked or not all(one.prompt for one in asked):
        raise ConfigError("no prompt: give the beginning of a sentence, or a file with one a line")
    config = saved_config(run_dir)
    digest = json.loads(run_dir.read(SUMMARY))["digest"]["memory"]
    with TaskProgress() as progress:
        rows = _propose(
            config, export, asked, num, written, config.seed if seed is None else seed, progress
        )
    lines = [{**row, "memory": digest} for row in rows]
    if as_json or is_file:
        for line in lines:
            console.file.write(json.dumps(line, ensure_ascii=console.encoding != "utf-8") + "\n")
        return lines
    (line,) = lines
    _print(line, console)
    return lines


def is_file_name(given: str) -> bool:
    """Whether what is given is no beginning of a sentence, but names a file that may be missing."""
    return " " not in given.strip() and given.endswith(ENDINGS)


def read_prompts(path: str) -> list[Asked]:
    """The prompts of a file. Raises: ConfigError with file and line of what is wrong."""
    try:
        with storage_errors(f"prompts {path}", "can't be read"):
            text = read_text(path)
    except (OSError, EncodingError) as err:
        raise ConfigError(f"prompts {path}: can't be read: {err}") from err
    found = []
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(Asked(line.strip()))
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as err:
            raise ConfigError(f"{path}, line {number}: not JSON: {err.msg}") from err
        texts = [row.get("prompt"), row.get("subject", "?")]
        if not row.keys() <= KEYS or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ConfigError(
                f'{path}, line {number}: expected {{"prompt": "…"}}, with "subject" if you like, '
                f"got {line.strip()[:80]}"
            )
        subject = row.get("subject")
        if subject is not None and subject not in row["prompt"]:
            raise ConfigError(
                f"{path}, line {number}: the prompt {row['prompt']!r} does not name its subject "
                f"{subject!r}"
            )
        found.append(Asked(row["prompt"].strip(), subject))
    return found


def _propose(
    config: RunSpec,
    export: str,
    asked: Sequence[Asked],
    num: int,
    written: int,
    seed: int,
    progress: TaskProgress,
) -> list[dict[str, Any]]:
    """A row per prompt, in the form that `tandem teach --lessons` reads."""
    from actors.pair.proposing import Proposer
    from actors.pair.wordings import WrittenText
    from actors.pair.writing import write_documents
    from actors.weights.pair_export import load_pair

    progress("loading the pair")
    pair, tokenizer = load_pair(export, progress)
    window = config.corpus.window
    documents = write_documents(pair.memory, tokenizer, written, seed, window, progress=progress)
    text = WrittenText(tokenizer.decode([int(t) for t in d.tokens]) for d in documents)
    proposer = Proposer(pair, tokenizer, text, config.evaluation.batch_tokens)
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(asked):
        progress("looking for answers", number, len(asked))
        proposed = proposer.propose(one.prompt, num, one.subject)
        row: dict[str, Any] = {"prompt": one.prompt, "choices": list(proposed.answers)}
        row |= {"choice": None, "probabilities": [round(p, 6) for p in proposed.probabilities]}
        rows.append(row if proposed.subject is None else {**row, "subject": proposed.subject})
    return rows


def _print(line: dict[str, Any], console: Console) -> None:
    table = Table(title=line["prompt"], title_justify="left")
    for heading in ("number", "answer", "probability"):
        table.add_column(heading, justify="right" if heading != "answer" else "left")
    for number, (answer, p) in enumerate(zip(line["choices"], line["probabilities"], strict=True)):
        table.add_row(str(number), answer, f"{p:.1%}")
    console.print(table)
    console.say(
        "to teach one: tandem propose … --json > choices.jsonl, put its number in the place of "
        "null, and tandem teach RUN --lessons choices.jsonl"
    )
