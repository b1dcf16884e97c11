"""What is handed over, as files; that it goes on to the bit is an integration test of searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.wire import CheckpointError
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.handover import hand_over, take_over
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.file_names import CONFIG, CORPUS, TOKENIZER

PARTS = ("data-000.safetensors", "data-001.safetensors", "memory-000.safetensors")


def donor(folder: Path) -> RunDir:
    """A run's directory with a pair after interval 6, whose bytes are their names."""
    run_dir = RunDir(str(folder / "donor"))
    root = checkpoints.folder(6)
    groups = {"data": [{"checksums": [1]}, {"checksums": [2]}], "memory": [{"checksums": [3]}]}
    for name in (*PARTS, checkpoints.ROWS):
        run_dir.write(f"{root}/{name}", name)
    run_dir.write_json(f"{root}/{checkpoints.MANIFEST}", {"body": {"groups": groups}})
    run_dir.write(TOKENIZER, "{}")
    return run_dir


def heir(folder: Path) -> Config:
    return make_config({"corpus": {"paths": ["a"]}, "storage": str(folder), "name": "heir"})


def test_a_whole_pair_becomes_another_runs_own(tmp_path: Path) -> None:
    given, target = donor(tmp_path), tmp_path / "between"
    target.mkdir()
    hand_over(given, 6, target, whole=True)
    config = heir(tmp_path)
    assert take_over(target, config) == 6
    taken = RunDir(config.run_url)
    assert checkpoints.intervals(taken) == [6]
    for name in (TOKENIZER, *checkpoints.file_names(given, 6)):
        assert taken.read_bytes(name) == given.read_bytes(name)
    assert taken.read(CONFIG) == config.to_yaml()


def test_the_record_of_the_corpus_goes_with_the_pair(tmp_path: Path) -> None:
    given, target = donor(tmp_path), tmp_path / "between"
    given.write(CORPUS, "its files")
    target.mkdir()
    hand_over(given, 6, target, whole=True)
    config = heir(tmp_path)
    take_over(target, config)
    assert RunDir(config.run_url).read(CORPUS) == "its files"


def test_what_is_not_whole_only_says_where_the_pair_lies(tmp_path: Path) -> None:
    given, target = donor(tmp_path), tmp_path / "between"
    target.mkdir()
    hand_over(given, 6, target, whole=False)
    assert [f.name for f in target.iterdir()] == ["pair.json"]
    assert json.loads((target / "pair.json").read_text()) == {"run": given.url, "interval": 6}


def test_the_manifest_is_copied_after_all_parts(tmp_path: Path) -> None:
    names = checkpoints.file_names(donor(tmp_path), 6)
    assert names[-1].endswith(checkpoints.MANIFEST)
    assert [n.rpartition("/")[2] for n in names[:-1]] == [*PARTS, checkpoints.ROWS]


def test_a_pair_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoints/000004: can't be read"):
        hand_over(donor(tmp_path), 4, tmp_path, whole=True)
