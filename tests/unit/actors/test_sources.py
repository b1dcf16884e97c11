"""Sources: which lines a block holds, what is held out, and what a bad corpus says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.corpus_spec import CorpusSpec
from actors.facts import FactTable
from actors.sources import (
    FACTS_PER_BLOCK,
    FactsSource,
    Source,
    TextSource,
    expand_paths,
    open_source,
)
from actors.wire import CorpusError
from tests.unit.actors.tiny import numbered_lines, write_facts, write_text

BLOCK_SIZES = [256, 257, 300, 511, 1000, 5000]


def training_text(source: Source) -> list[str]:
    return [d.text for block in range(source.num_blocks) for d in source.block(block)]


def heldout_text(source: Source) -> list[str]:
    return [d.text for d in source.heldout()]


def lines_of(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n") if line]


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_line_belongs_to_exactly_one_block(tmp_path: Path, block_bytes: int, end: str) -> None:
    lines = numbered_lines(150)
    spec = write_text(tmp_path, lines, block_bytes=block_bytes)
    (tmp_path / "text.txt").write_bytes(end.join(lines).encode())
    source = TextSource(spec, seed=1)
    got = lines_of([*training_text(source), *heldout_text(source)])
    assert sorted(line.rstrip("\r") for line in got) == sorted(lines)


def test_a_line_longer_than_a_block_stays_whole(tmp_path: Path) -> None:
    lines = ["a" * 40, "é" * 1000, "b" * 40, "c" * 700, "d"]
    source = TextSource(write_text(tmp_path, lines, block_bytes=256), seed=0)
    assert sorted(lines_of([*training_text(source), *heldout_text(source)])) == sorted(lines)


def test_lines_of_several_files_do_not_run_into_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"first of {name}\nlast of {name}", encoding="utf-8")
    spec = CorpusSpec(paths=(str(tmp_path),), block_bytes=256)
    source = TextSource(spec, seed=0)
    got = {*training_text(source), *heldout_text(source)}
    assert got == {"first of a\nlast of a", "first of b\nlast of b"}


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES)
def test_no_held_out_line_is_in_a_training_block(tmp_path: Path, block_bytes: int) -> None:
    spec = write_text(tmp_path, numbered_lines(150), block_bytes=block_bytes)
    source = TextSource(spec, seed=1)
    assert not set(lines_of(training_text(source))) & set(lines_of(heldout_text(source)))


def test_the_held_out_share_is_what_was_asked_for(tmp_path: Path) -> None:
    spec = write_text(tmp_path, ["x" * 255] * 400, block_bytes=256, heldout_frac=0.1)
    source = TextSource(spec, seed=0)
    assert (source.num_blocks, len(heldout_text(source))) == (360, 40)


@pytest.mark.parametrize("seed", range(5))
def test_a_short_text_still_has_both_sides(tmp_path: Path, seed: int) -> None:
    spec = write_text(tmp_path, ["x" * 255] * 3, block_bytes=256, heldout_frac=0.01)
    source = TextSource(spec, seed)
    assert (source.num_blocks, len(heldout_text(source))) == (2, 1)


def test_a_block_is_the_same_whenever_it_is_read(tmp_path: Path) -> None:
    source = TextSource(write_text(tmp_path, numbered_lines(50)), seed=0)
    assert source.block(1) == source.block(1)


def test_directories_globs_and_files_are_expanded_in_order(tmp_path: Path) -> None:
    for name in ("c.txt", "sub/b.txt", "sub/.hidden", "z1.md", "z0.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    paths = (str(tmp_path / "z*.md"), str(tmp_path / "sub"), str(tmp_path / "c.txt"))
    names = [Path(f).name for f in expand_paths(paths)]
    assert names == ["z0.md", "z1.md", "b.txt", "c.txt"]


@pytest.mark.parametrize("name", ["gone.txt", "gone*.txt", "gone/"])
def test_a_path_that_matches_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="gone"):
        expand_paths((str(tmp_path / name),))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(CorpusError, match="nope://"):
        expand_paths(("nope://bucket/text.txt",))


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"")
    with pytest.raises(CorpusError, match="empty"):
        TextSource(CorpusSpec(paths=(str(tmp_path / "text.txt"),)), 0)


def test_a_text_of_one_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"only one block of 16384 bytes"):
        TextSource(write_text(tmp_path, ["short"], block_bytes=16384), 0)


def test_a_text_that_is_not_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    raw = b"".join(b"%04d %s\n" % (n, b"x" * 94) for n in range(20))
    (tmp_path / "text.txt").write_bytes(raw[:1234] + b"\xff" + raw[1235:])
    source = TextSource(CorpusSpec(paths=(str(tmp_path / "text.txt"),), block_bytes=256), 0)
    with pytest.raises(CorpusError, match=r"text\.txt: byte 1234 is not UTF-8"):
        [*training_text(source), *heldout_text(source)]


def test_a_file_that_vanished_is_refused(tmp_path: Path) -> None:
    source = TextSource(write_text(tmp_path, numbered_lines(50)), seed=0)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(CorpusError, match=r"text\.txt: can't be read"):
        source.block(0)


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
    source, _ = open_source(write_facts(tmp_path, facts), 0)
    sizes = [len({d.subject for d in source.block(b)}) for b in range(source.num_blocks)]
    assert sizes == [FACTS_PER_BLOCK, FACTS_PER_BLOCK, 150 - 2 * FACTS_PER_BLOCK]


def test_where_only_answers_are_learned_they_are_the_objects(tmp_path: Path) -> None:
    source, table = open_source(write_facts(tmp_path, loss_on="answers"), 0)
    assert table is not None
    assert set(training_text(source)) == {f" {f.object}." for f in table.facts}


def test_where_only_answers_are_learned_the_wordings_are_those_that_end_in_them(
    tmp_path: Path,
) -> None:
    source, table = open_source(write_facts(tmp_path, loss_on="answers"), 0)
    assert table is not None
    askable = [
        wording.sentence(f)
        for f in table.facts
        for wording in table.train_wordings[f.relation]
        if wording.pattern.endswith("[Y].")
    ]
    assert [d.given + d.text for d in source.block(0)] == askable


def test_the_corpus_and_the_messages_need_no_torch() -> None:
    modules = "actors.spec, actors.wire, actors.facts, actors.sources, actors.corpus"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
