"""The corpus for a finished run to learn, facts or text, with settings that fit the run.

Reads only what decides which of the two it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from actors.formats import listed
from actors.settings.corpus import CorpusSpec
from actors.sources.columns import SHOWN_COLUMNS
from actors.sources.facts import FactTable
from actors.sources.paths import FORMATS, expand_paths, list_files, reading, split_name
from actors.sources.row_groups import column_names
from actors.sources.text_file import lines_of, read_bytes
from actors.wire import ConfigError
from orchestrator.settings.config import Config
from orchestrator.settings.config_paths import beside

FACT_KEYS = {"relation", "subject", "object"}
USUAL_COLUMNS = "text, or messages, or prompt and completion"
LEAST_BLOCKS = 40  # so that some of a short text is held out too
LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES = 256, 16384
FIRST_BYTES = 1 << 16
TOKENS_PER_SENTENCE = 14  # of a fact in one wording, its marks included; about
EPOCHS, FACT_EPOCHS = 4, 7  # of text; of facts, of which every one is to be learned
LEAST_STEPS, MOST_STEPS = 80, 2000
BYTES_PER_TOKEN = 4


def facts_corpus(config: Config, path: str, templates: str | None) -> CorpusSpec:
    """Facts for the run, with wordings and a held-out split like its own.

    Args:
        config: of the run.
        path: JSONL file of relation, subject, object; glob, folder or URL.
        templates: JSON file of wordings; None: the run's own.

    Raises:
        ConfigError: neither the run nor the caller has wordings.
    """
    own = config.corpus
    if templates is None and own.templates is None:
        raise ConfigError(
            f"{path}: facts need wordings, and the corpus of run {config.name} is of kind "
            f"{own.kind} and has none; give a JSON file, relation -> list of {{pattern, lemma}}, "
            "with --templates"
        )
    return _fitting(
        config,
        kind="facts",
        paths=(anchored(path),),
        templates=own.templates if templates is None else anchored(templates),
        heldout_lemmas=max(1, own.heldout_lemmas),
        loss_on=own.loss_on if own.kind == "facts" else "answers",
    )


def text_corpus(config: Config, path: str) -> CorpusSpec:
    """Text for the run: a file, glob, folder or URL, as in `corpus.paths`; chats, or prompts with
    completions, where `columns_in` finds them.

    Raises:
        CorpusError: no such file, or one of a foreign format.
    """
    own, paths = config.corpus, (anchored(path),)
    return _fitting(
        config,
        kind="text",
        paths=paths,
        heldout_frac=own.heldout_frac,
        block_bytes=fitting_block_bytes(paths, own.block_bytes),
        shuffle_blocks=own.shuffle_blocks,
        spool=own.spool,
        **columns_in(paths[0]),
    )


def fitting_block_bytes(paths: Sequence[str], most: int = MOST_BLOCK_BYTES) -> int:
    """Size of blocks such that some of a short text is held out too.

    Raises:
        CorpusError: no such file, or one of a foreign format.
    """
    num_bytes = sum(file.size for file in list_files(paths))
    return max(LEAST_BLOCK_BYTES, min(most, num_bytes // LEAST_BLOCKS))


def fitting_steps(corpus: CorpusSpec, batch_size: int, seed: int) -> int:
    """Steps of a memory beside a model that is there already: so many epochs of the corpus by its
    size, within bounds.

    Args:
        corpus: that is learned.
        batch_size: of the memory.
        seed: of the run.

    Raises:
        CorpusError: it is missing or malformed.
    """
    if corpus.kind == "facts":
        table = FactTable.read(corpus, expand_paths(corpus.paths), seed)
        num = sum(len(table.train_wordings[fact.relation]) for fact in table.facts)
        size, epochs = num * TOKENS_PER_SENTENCE, FACT_EPOCHS
    else:
        size, epochs = (
            sum(file.size for file in list_files(corpus.paths)) // BYTES_PER_TOKEN,
            EPOCHS,
        )
    return min(MOST_STEPS, max(LEAST_STEPS, epochs * size // (batch_size * corpus.window)))


def any_corpus(config: Config, path: str, templates: str | None) -> CorpusSpec:
    """Facts if templates are given or the first line is a fact, else text.

    Raises:
        ConfigError: as `facts_corpus` and `text_corpus`.
    """
    if templates is not None or holds_facts(anchored(path)):
        return facts_corpus(config, path, templates)
    return text_corpus(config, path)


def holds_facts(path: str) -> bool:
    """Whether the first line of the first file is a fact: has relation, subject and object.

    Raises:
        CorpusError: no such file, or it can't be read.
    """
    return first_row(path).keys() >= FACT_KEYS


def columns_in(path: str) -> dict[str, str]:
    """The columns of `corpus` that the first file of JSON lines or Parquet has, by the names that
    are usual: `text`, else `messages` (and `tools`), else `prompt` and `completion`.

    Raises:
        ConfigError: its rows have none of them.
        CorpusError: no such file, or it can't be read.
    """
    there = _columns_there(path)
    if "text" in there:
        return {}
    if "messages" in there:
        tools = {"tools_column": "tools"} if "tools" in there else {}
        return {"messages_column": "messages", **tools}
    if {"prompt", "completion"} <= set(there):
        return {"prompt_column": "prompt", "completion_column": "completion"}
    if there:
        are_facts = set(there) >= FACT_KEYS
        raise ConfigError(
            f"{path}: its rows have no column that is read: expected {USUAL_COLUMNS}, got "
            f"{listed(there, SHOWN_COLUMNS)}; "
            + ("these are facts, no text" if are_facts else "rename what is to be read")
        )
    return {}


def _columns_there(path: str) -> list[str]:
    first = list_files((path,))[0]
    return list(column_names(first) if first.format == "parquet" else first_row(path))


def first_row(path: str) -> dict[str, Any]:
    """The first row of the first file; empty where that is no JSON line.

    Raises:
        CorpusError: no such file, or it can't be read.
    """
    first = expand_paths((path,))[0]
    if FORMATS.get(split_name(first)[0]) != "jsonl":
        return {}
    with reading(first):
        start = read_bytes(first, FIRST_BYTES).decode("utf-8-sig", errors="replace")
    line = next((line for line in lines_of(start) if line.strip()), "")
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def _fitting(config: Config, **fields: Any) -> CorpusSpec:
    own = config.corpus
    return CorpusSpec(window=own.window, token_noise=own.token_noise, **fields)


def anchored(path: str) -> str:
    """A path of the command line, absolute; URLs stay."""
    return beside(os.getcwd(), os.path.expanduser(path))
