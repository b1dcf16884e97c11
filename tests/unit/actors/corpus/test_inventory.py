"""What a run will read: the held-out split, of training what is cheap, and how much there is."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.corpus.block_reader import encode
from actors.corpus.corpus import Corpus, train_tokenizer
from actors.corpus.inventory import Inventory, take_inventory
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.documents import Document
from actors.sources.file_source import FileSource
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import numbered_lines, run_spec, write_facts, write_text
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

LINES = numbered_lines(800)


def taken(corpus: CorpusSpec, read_bytes: int = 1 << 30, **changes: Any) -> Inventory:
    spec = run_spec(corpus, **changes)
    return take_inventory(spec, tokenizer_of(spec), read_bytes)


def tokenizer_of(spec: RunSpec) -> Tokenizer:
    if spec.tokenizer.pretrained is not None:
        return Tokenizer.from_pretrained(spec.tokenizer.pretrained)
    return trained()


@cache
def trained() -> Tokenizer:
    return Tokenizer.train(LINES, 400)


def rows_spec(path: Path, **fields: Any) -> CorpusSpec:
    return CorpusSpec(paths=(str(path),), **{"window": 48, "block_bytes": 512, **fields})


def write_jsonl(path: Path, bad: dict[int, str]) -> CorpusSpec:
    lines = [bad.get(i, json.dumps({"text": line})) for i, line in enumerate(LINES)]
    path.write_text("\n".join(lines) + "\n")
    return rows_spec(path)


def counted(documents: list[Document], tokenizer: Tokenizer) -> tuple[int, int, int]:
    return (
        len(documents),
        sum(len(d.text.encode()) + len(d.given.encode()) for d in documents),
        sum(len(piece.tokens) for piece in encode(tokenizer, documents)),
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_a_small_corpus_is_counted_exactly(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, [{"text": line} for line in LINES])
    spec = run_spec(rows_spec(tmp_path / name))
    tokenizer = tokenizer_of(spec)
    (found,) = take_inventory(spec, tokenizer).sources
    (source,), _ = open_sources(spec.corpus, spec.seed)
    documents = [d for i in range(source.num_blocks) for d in source.block(i)]
    for side, expected in (
        (found.training, counted(documents, tokenizer)),
        (found.heldout, counted(list(source.heldout()), tokenizer)),
    ):
        assert (side.documents, side.num_bytes, side.tokens) == expected
        assert not side.estimated
        assert not side.tokens_estimated
        assert side.read_bytes == side.num_bytes
    assert found.training.documents + found.heldout.documents == len(LINES)
    assert (found.num_files, found.file_bytes) == (1, (tmp_path / name).stat().st_size)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_what_is_not_read_is_estimated_and_marked(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, [{"text": line} for line in LINES])
    spec = rows_spec(tmp_path / name)
    (whole,), (part,) = taken(spec).sources, taken(spec, 20_000).sources
    assert part.training.estimated
    assert part.training.tokens_estimated
    assert 10_000 < part.training.read_bytes < 30_000
    for name in ("documents", "num_bytes", "tokens"):
        assert getattr(part.training, name) == pytest.approx(getattr(whole.training, name), rel=0.2)
    assert part.heldout == whole.heldout


def test_a_packed_file_above_the_bound_is_not_unpacked_for_its_training_blocks(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "rows.jsonl.gz", [{"text": line} for line in LINES])
    spec = rows_spec(tmp_path / "rows.jsonl.gz")
    (whole,), (part,) = taken(spec).sources, taken(spec, 1000).sources
    assert part.training.read_bytes == 0
    assert part.training.estimated
    assert part.training.documents == pytest.approx(whole.training.documents, rel=0.3)


BAD = '{"text": ["a", "list"]}'


def test_a_bad_record_is_named_on_whichever_side_it_falls(tmp_path: Path) -> None:
    spec = write_jsonl(tmp_path / "rows.jsonl", {400: BAD})
    for seed in range(20):
        with pytest.raises(CorpusError, match=r"rows\.jsonl, line 401: column text: expected text"):
            taken(spec, seed=seed)


def test_a_bad_record_in_a_held_out_block_is_found_though_no_training_text_is_read(
    tmp_path: Path,
) -> None:
    spec = write_jsonl(tmp_path / "rows.jsonl", {400: BAD})
    found = []
    for seed in range(20):
        try:
            taken(spec, 0, seed=seed)
        except CorpusError as err:
            found.append(str(err))
    assert len(found) == 1  # one block of twenty is held out
    assert "line 401" in found[0]


def test_every_source_is_read(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", {})
    bad = write_jsonl(tmp_path / "bad.jsonl", {10: BAD})
    sources = [{"paths": spec.paths} for spec in (good, bad)]
    mixed = CorpusSpec.model_validate({"sources": sources, "window": 48, "block_bytes": 512})
    for seed in (0, 1):
        with pytest.raises(CorpusError, match=r"bad\.jsonl, line 11"):
            taken(mixed, seed=seed)
    (tmp_path / "bad.jsonl").write_text((tmp_path / "good.jsonl").read_text())
    one, other = taken(mixed).sources
    assert one.share == other.share == 0.5
    assert one.training == other.training


def test_all_blocks_that_any_evaluation_asks_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a small evaluation are not among those of a large one."""
    monkeypatch.setattr("actors.corpus.corpus.HELDOUT_BYTES", 4096)
    read: set[int] = set()
    really = FileSource._read

    def note(self: FileSource, block: int) -> Any:
        read.add(block)
        return really(self, block)

    spec = write_text(tmp_path, LINES, heldout_frac=0.45)
    run = run_spec(spec, evaluation__windows=4, evaluation__final_windows=64)
    tokenizer = tokenizer_of(run)
    corpus = Corpus.open(run, tokenizer)
    monkeypatch.setattr(FileSource, "_read", note)
    needed = []
    for num in (4, 48, 64):
        read.clear()
        corpus.heldout(num)
        needed.append(set(read))
    assert needed[0] - needed[1]
    assert needed[1] - needed[2]
    read.clear()
    take_inventory(run, tokenizer, 0)
    assert read == set.union(*needed)


def test_a_held_out_split_without_text_is_refused(tmp_path: Path) -> None:
    spec = write_jsonl(tmp_path / "rows.jsonl", {})
    lines = [json.dumps({"text": "x" if i < 400 else None}) for i in range(800)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    spec = rows_spec(tmp_path / "rows.jsonl", heldout_frac=0.499, block_bytes=8000)
    refused = []
    for seed in (0, 1):
        with pytest.raises(CorpusError) as err:
            taken(spec, seed=seed)
        refused.append(str(err.value))
    assert any("the held-out split is empty" in text for text in refused)
    assert any("the training split is empty" in text for text in refused)


def test_special_tokens_that_stand_in_the_text_are_counted(tmp_path: Path) -> None:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    place = saved(tmp_path / "tokenizer", byte_level(*special), eos_token="<|endoftext|>")
    chat = "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYes<|im_end|>"
    lines = [json.dumps({"text": chat})] * 100
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    found = taken(rows_spec(tmp_path / "rows.jsonl"), tokenizer__pretrained=place)
    assert found.special_tokens == {"<|im_start|>": 200, "<|im_end|>": 200}
    (said,) = found.warnings()
    assert "<|im_start|> 200 times, <|im_end|> 200 times" in said
    assert "not as their ids" in said
    assert taken(write_text(tmp_path, LINES), tokenizer__pretrained=place).warnings() == []


def test_special_tokens_are_counted_once_each_and_the_longest_first(tmp_path: Path) -> None:
    place = saved(tmp_path / "t", byte_level("<|endoftext|>", "<s>", "<s>[INST]"))
    spec = write_text(tmp_path, ["<s>[INST] and <s> here"] * 300)
    found = taken(spec, tokenizer__pretrained=place)
    assert found.special_tokens == {"<s>[INST]": 300, "<s>": 300}


def test_a_special_token_that_stands_in_the_text_once_is_said_so(tmp_path: Path) -> None:
    place = saved(tmp_path / "t", byte_level("<|endoftext|>", "<s>"))
    spec = write_text(tmp_path, ["a <s> b", *["plain words"] * 300])
    (said,) = taken(spec, tokenizer__pretrained=place).warnings()
    assert "corpus: <s> once in the" in said


def test_relations_that_nobody_asks_about_are_named(tmp_path: Path) -> None:
    templates = {
        "capital": [{"pattern": "The capital of [X] is [Y].", "lemma": "be"}],
        "river": [
            {"pattern": "The river of [X] is [Y].", "lemma": "be"},
            {"pattern": "Through [X] flows the [Y].", "lemma": "flow"},
        ],
    }
    found = taken(write_facts(tmp_path, templates=templates))
    assert found.unasked == {"capital": 12}
    assert "asks about capital (12 facts)" in found.warnings()[0]
    (source,) = found.sources
    assert (source.num_files, source.training.documents, source.heldout.documents) == (2, 24, 12)


def test_lines_say_files_documents_bytes_and_tokens_of_both_sides(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_text(tmp_path / "data", LINES)
    (tmp_path / "data" / "_notes.txt").write_text("no data")
    spec = CorpusSpec(paths=(str(tmp_path / "data"),), window=48, block_bytes=512)
    found = taken(spec)
    side = found.sources[0].training
    first, second, third = found.lines()
    assert first.startswith(f"corpus {tmp_path}/data: 1 file, ")
    assert f"training {side.documents:,} documents, " in second
    assert f"of text, {side.tokens:,} tokens; held out " in second
    assert third.endswith("_notes.txt (a name that begins with . or _)")
    assert "about" in taken(spec, 5000).lines()[1]


def test_an_inventory_comes_back_from_json(tmp_path: Path) -> None:
    found = taken(write_text(tmp_path, LINES))
    assert Inventory.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_looking_changes_nothing_of_what_is_trained_on(tmp_path: Path) -> None:
    spec = run_spec(write_text(tmp_path, LINES))
    tokenizer = train_tokenizer(spec)
    before = Corpus.open(spec, tokenizer).chunk("data", 0).tokens_NT
    take_inventory(spec, tokenizer)
    assert np.array_equal(Corpus.open(spec, tokenizer).chunk("data", 0).tokens_NT, before)


def test_a_source_of_few_blocks_that_loses_much_to_the_held_out_split_is_named(
    tmp_path: Path,
) -> None:
    few = write_text(tmp_path, LINES, block_bytes=1 << 14, heldout_frac=0.05)
    found = taken(few)
    (source,) = found.sources
    (said,) = found.warnings()
    assert f"{source.heldout_frac:.0%} of the text of" in said
    assert "corpus.heldout_frac is 5%: blocks are held out whole" in said
    assert taken(write_text(tmp_path, LINES, heldout_frac=0.05)).warnings() == []
    assert Inventory.from_dict(found.as_dict()).warnings() == [said]
