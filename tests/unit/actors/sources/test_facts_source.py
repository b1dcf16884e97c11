"""The sources of a corpus: facts as sentences, and files that only one source may read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import Source
from actors.sources.facts import FactTable
from actors.sources.facts_source import FACTS_PER_BLOCK, FactsSource
from actors.sources.file_source import FileSource
from actors.wire import CorpusError
from tests.unit.actors.tiny import numbered_lines, write_facts, write_text


def training_text(source: Source) -> list[str]:
    return [d.text for block in range(source.num_blocks) for d in source.block(block)]


def heldout_text(source: Source) -> list[str]:
    return [d.text for d in source.heldout()]


def test_training_blocks_of_facts_say_each_fact_in_each_training_wording(tmp_path: Path) -> None:
    spec = write_facts(tmp_path)
    table = FactTable.read(spec, list(spec.paths), 0)
    want = [w.sentence(f) for f in table.facts for w in table.train_wordings[f.relation]]
    assert sorted(training_text(FactsSource(table, False))) == sorted(want)


def test_the_held_out_split_of_facts_says_each_fact_in_each_held_out_wording(
    tmp_path: Path,
) -> None:
    spec = write_facts(tmp_path)
    table = FactTable.read(spec, list(spec.paths), 0)
    want = [w.sentence(f) for f in table.facts for w in table.heldout_wordings[f.relation]]
    assert sorted(heldout_text(FactsSource(table, False))) == sorted(want)


def test_facts_are_cut_into_blocks_of_equal_size(tmp_path: Path) -> None:
    facts = [{"relation": "river", "subject": f"x{i}", "object": "Oda"} for i in range(150)]
    (source,), _ = open_sources(write_facts(tmp_path, facts), 0)
    sizes = [len({d.subject for d in source.block(b)}) for b in range(source.num_blocks)]
    assert sizes == [FACTS_PER_BLOCK, FACTS_PER_BLOCK, 150 - 2 * FACTS_PER_BLOCK]


def test_where_only_answers_are_learned_they_are_the_objects(tmp_path: Path) -> None:
    (source,), table = open_sources(write_facts(tmp_path, loss_on="answers"), 0)
    assert table is not None
    assert set(training_text(source)) == {f" {f.object}." for f in table.facts}


def test_where_only_answers_are_learned_the_wordings_are_those_that_end_in_them(
    tmp_path: Path,
) -> None:
    (source,), table = open_sources(write_facts(tmp_path, loss_on="answers"), 0)
    assert table is not None
    askable = [
        wording.sentence(f)
        for f in table.facts
        for wording in table.train_wordings[f.relation]
        if wording.pattern.endswith("[Y].")
    ]
    assert [d.given + d.text for d in source.block(0)] == askable


def test_the_corpus_and_the_messages_need_no_torch() -> None:
    rooms = ("settings.run", "wire", "sources.facts", "sources.corpus_sources", "corpus.corpus")
    modules = ", ".join(f"actors.{room}" for room in rooms)
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_each_source_of_a_mixture_is_opened_in_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    paths = [
        write_text(tmp_path / name, numbered_lines(40, i)).paths for i, name in enumerate("ab")
    ]
    spec = CorpusSpec.model_validate({"sources": [{"paths": p} for p in paths], "block_bytes": 256})
    sources, table = open_sources(spec, 0)
    assert table is None
    assert [s.files[0].path for s in sources if isinstance(s, FileSource)] == [p for (p,) in paths]


def test_a_file_in_two_sources_is_refused(tmp_path: Path) -> None:
    paths = write_text(tmp_path, numbered_lines(40)).paths
    spec = CorpusSpec.model_validate(
        {"sources": [{"paths": paths}, {"paths": [str(tmp_path)]}], "block_bytes": 256}
    )
    with pytest.raises(CorpusError, match=r"text\.txt: in source 0 and in source 1"):
        open_sources(spec, 0)
