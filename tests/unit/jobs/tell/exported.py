"""An exported pair that keeps a sample of its text, so that it can be told."""

from __future__ import annotations

from pathlib import Path

from actors.corpus.corpus import Corpus
from actors.corpus.kept_windows import kept_windows
from actors.weights.pair_export import copy_export, pair_folder
from tests.unit.actors.tiny import run_spec, write_facts
from tests.unit.actors.tiny_pair import exported


def tellable(folder: Path) -> Path:
    """The folder, with an export in it."""
    pair, tokenizer = exported(folder.parent / f"{folder.name}-bare")
    corpus = folder.parent / f"{folder.name}-text"
    corpus.mkdir()
    spec = run_spec(write_facts(corpus))
    pair.memory.kept = kept_windows(Corpus.open(spec, tokenizer), "memory", 64)
    with pair_folder(tokenizer, pair) as root:
        copy_export(root, str(folder))
    return folder
