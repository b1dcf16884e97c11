"""A run goes on with the corpus with which it began, or with one that a person accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.corpus.inventory import Inventory
from actors.sources.corpus_files import CorpusMarks
from actors.wire import ConfigError
from orchestrator.run_dir.corpus_record import refuse_changed_corpus, write_record
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, changed_keys, load_config
from orchestrator.settings.file_names import CORPUS


def config(folder: Path, *overrides: str) -> Config:
    paths = f"corpus.paths=[{folder}/texts]"
    return load_config({"storage": str(folder / "runs")}, [paths, *overrides])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "b.txt"
    path.write_text("one line\nand another\n")
    return path


@pytest.fixture
def begun(tmp_path: Path, text: Path) -> RunDir:
    """The directory of a run that has begun."""
    run_dir = RunDir(config(tmp_path).run_url)
    write_record(run_dir, marks(config(tmp_path)), Inventory(()))
    return run_dir


def marks(given: Config) -> CorpusMarks:
    return CorpusMarks.of(given.corpus)


def resumed(run_dir: RunDir, given: Config) -> list[str]:
    """What a person is warned of."""
    said: list[str] = []
    refuse_changed_corpus(run_dir, given, marks(given), said.append)
    return said


def accepted(refusal: str) -> str:
    found = re.search(r"recovery\.accept_corpus=\w+", refusal)
    assert found
    return found.group()


def test_an_unchanged_corpus_goes_on_without_a_word(tmp_path: Path, begun: RunDir) -> None:
    assert resumed(begun, config(tmp_path)) == []


def test_a_changed_corpus_is_refused_with_what_changed(
    tmp_path: Path, begun: RunDir, text: Path
) -> None:
    text.write_text(text.read_text()[::-1])
    (text.parent / "a.txt").write_text("first\n")
    with pytest.raises(ConfigError) as err:
        resumed(begun, config(tmp_path))
    assert f"{text.parent}/a.txt is new" in str(err.value)
    assert f"{text} has the same 21 bytes but other content" in str(err.value)


def test_what_the_refusal_says_makes_it_go_on_with_this_corpus_and_no_later_one(
    tmp_path: Path, begun: RunDir, text: Path
) -> None:
    text.write_text("another text\n")
    with pytest.raises(ConfigError) as err:
        resumed(begun, config(tmp_path))
    going_on = config(tmp_path, accepted(str(err.value)))
    (warning,) = resumed(begun, going_on)
    assert f"{text} had 21 bytes and has 13" in warning
    assert changed_keys(config(tmp_path), going_on) == []
    write_record(begun, marks(going_on), Inventory(()))  # as the resumed run does
    assert resumed(begun, going_on) == []
    text.write_text("a third text\n")
    with pytest.raises(ConfigError, match="other content"):
        resumed(begun, going_on)


def test_a_run_of_an_earlier_version_goes_on_with_a_warning(tmp_path: Path, text: Path) -> None:
    (warning,) = resumed(RunDir(config(tmp_path).run_url), config(tmp_path))
    assert f"has no {CORPUS}" in warning


def test_a_record_that_is_none_is_named(tmp_path: Path, begun: RunDir) -> None:
    begun.write(CORPUS, "{}")
    with pytest.raises(ConfigError, match=r"corpus\.json: not a record of a corpus"):
        resumed(begun, config(tmp_path))
