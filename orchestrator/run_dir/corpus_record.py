"""The record that a run keeps of its corpus, and the check on a resume that it is still the same.

    corpus.json     {"digest": …, "files": [{"path", "size", "digest"}, …], "inventory": {…}}

Blocks are numbered and held out by their place in the files, so after a change what was held out
may be trained on, and a position in a stream means another text.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from actors.corpus.inventory import Inventory
from actors.sources.corpus_files import CorpusMarks
from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CORPUS

ACCEPT = "recovery.accept_corpus"


def write_record(run_dir: RunDir, marks: CorpusMarks, inventory: Inventory) -> None:
    """Records sizes and digests of the corpus files, and what is in them."""
    run_dir.write_json(
        CORPUS,
        {
            "digest": marks.digest,
            "files": marks.as_list(),
            "inventory": inventory.as_dict(),
        },
    )


def changes_of_corpus(run_dir: RunDir, marks: CorpusMarks) -> list[str] | None:
    """How the corpus differs from the record of a run or a search; None: there is no record.

    Raises:
        ConfigError: the record can't be read.
    """
    if not run_dir.exists(CORPUS):
        return None
    try:
        before = CorpusMarks.from_list(json.loads(run_dir.read(CORPUS))["files"])
    except (ValueError, KeyError, TypeError) as err:
        raise ConfigError(
            f"{run_dir.path(CORPUS)}: not a record of a corpus ({err}); remove it to go on without"
        ) from err
    return before.changes(marks)


def refuse_changed_corpus(
    run_dir: RunDir, config: Config, marks: CorpusMarks, warn: Callable[[str], None]
) -> None:
    """Compares the corpus with the one that a run, or a search, has in its directory.

    Args:
        run_dir: of what is resumed.
        config: of the resumed run; says whether a change is accepted.
        marks: of the corpus as it is now.
        warn: called where a change is accepted, and where there is no record to compare with.

    Raises:
        ConfigError: the corpus is another one; the message names the files and how to accept it.
    """
    changes = changes_of_corpus(run_dir, marks)
    if changes is None:
        warn(
            f"{run_dir.url} has no {CORPUS}: it was begun by an earlier version, so whether "
            "its corpus is still the same can't be checked; from now on it is recorded"
        )
    if not changes:
        return
    what = f"its corpus is not what it was: {'; '.join(changes)}"
    if config.recovery.accept_corpus == marks.digest:
        warn(f"{run_dir.url}: {what}; accepted by {ACCEPT}. What was held out may be trained on")
        return
    raise ConfigError(
        f"{run_dir.url} can't go on: {what}. Text is held out by its place in the files, so what "
        "was held out may be trained on now. Put the files back, start under another name=…, or go "
        f"on with the corpus as it is now by adding {ACCEPT}={marks.digest} to the command"
    )
