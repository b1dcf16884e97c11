"""Text that people wrote: marks, other encodings, compressed files, line ends; in facts, templates,
configs, corpora and tokenizers alike.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources.corpus_sources import open_sources
from actors.sources.facts import FactTable
from actors.sources.text_file import EncodingError, decode, lines_of, read_text
from actors.wire import ConfigError, CorpusError
from orchestrator.settings.config import load_config
from tests.unit.actors.sources.test_file_source import heldout_text, opened, training_text
from tests.unit.actors.tiny import FACTS, TEMPLATES, numbered_lines, write_facts

BOM = codecs.BOM_UTF8
WORDS = "".join(f"{line}\n" for line in numbered_lines(200))
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "UTF-16 by its first bytes, expected UTF-8; convert it: iconv -f UTF-16 -t"),
        ("utf-32", "UTF-32 by its first bytes, expected UTF-8; convert it: iconv -f UTF-32 -t"),
        ("utf-16-le", "by its NUL bytes UTF-16LE without a byte order mark, .* -f UTF-16LE -t"),
        ("utf-16-be", "by its NUL bytes UTF-16BE without a byte order mark, .* -f UTF-16BE -t"),
        ("utf-32-le", "by its NUL bytes UTF-32LE without"),
        ("utf-32-be", "by its NUL bytes UTF-32BE without"),
    ],
)
@pytest.mark.parametrize("text", [WORDS, "Привет, мир, и ещё раз.\n" * 30])
def test_another_encoding_is_named_with_how_to_convert_it(
    encoding: str, message: str, text: str
) -> None:
    with pytest.raises(EncodingError, match=message):
        decode(text.encode(encoding))


def test_bytes_of_no_known_encoding_are_named_by_the_first_that_is_wrong() -> None:
    with pytest.raises(EncodingError, match=r"byte 103 is not UTF-8 .*; convert the file, e\.g\."):
        decode("für".encode() + "für".encode("latin-1"), 98)


@pytest.mark.parametrize("at", [1, 2, 3, 7])
def test_a_part_of_a_wide_file_is_known_from_any_byte_on(at: int) -> None:
    for encoding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"):
        with pytest.raises(EncodingError, match=f"NUL bytes {encoding}, expected UTF-8"):
            decode(WORDS.encode(encoding)[at:], at)


def test_what_a_crash_left_of_a_file_is_no_text() -> None:
    with pytest.raises(EncodingError, match="nothing but NUL bytes"):
        decode(bytes(500))


def test_single_nuls_are_text() -> None:
    text = "a line of text that is long enough\0" * 50
    assert decode(text.encode()) == text


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_corpus_of_another_encoding_is_refused(tmp_path: Path, name: str, encoding: str) -> None:
    text = WORDS if name == "a.txt" else "".join(
        json.dumps({"text": line}) + "\n" for line in numbered_lines(200)
    )  # fmt: skip
    (tmp_path / name).write_bytes(text.encode(encoding))
    source = opened(CorpusSpec(paths=(str(tmp_path / name),), block_bytes=256), seed=1)
    with pytest.raises(CorpusError, match=rf"{name}: .*UTF-16.*iconv"):
        training_text(source)
    with pytest.raises(CorpusError, match=rf"{name}: .*UTF-16.*iconv"):
        heldout_text(source)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.gz"])
def test_marks_of_a_corpus_and_of_what_was_joined_to_it_are_no_text(
    tmp_path: Path, name: str
) -> None:
    lines = numbered_lines(100)
    rows = lines if ".txt" in name else [json.dumps({"text": line}) for line in lines]
    part = BOM + "".join(f"{row}\n" for row in rows).encode()
    (tmp_path / name).write_bytes(PACK[".gz" if name.endswith(".gz") else ""](part + part))
    source = opened(CorpusSpec(paths=(str(tmp_path / name),), block_bytes=256), seed=0)
    found = "\n".join([*training_text(source), *heldout_text(source)]).split("\n")
    assert sorted(line for line in found if line) == sorted([*lines, *lines])


def test_a_mark_inside_a_line_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one \ufeff two\n" * 100, encoding="utf-8")
    source = opened(CorpusSpec(paths=(str(tmp_path / "a.txt"),), block_bytes=256))
    assert set("".join(training_text(source)).split("\n")) == {"one \ufeff two", ""}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("packed", PACK)
def test_facts_and_templates_may_be_compressed_marked_and_of_any_line_end(
    tmp_path: Path, packed: str, end: bytes
) -> None:
    rows = [json.dumps(fact).encode() + end for fact in FACTS]
    facts = BOM + b"".join(rows[:3]) + BOM + b"".join(rows[3:])
    templates = BOM + json.dumps(TEMPLATES).encode()
    plain = write_facts(tmp_path)
    (tmp_path / f"f.jsonl{packed}").write_bytes(PACK[packed](facts))
    (tmp_path / f"t.json{packed}").write_bytes(PACK[packed](templates))
    spec = plain.model_copy(
        update={
            "paths": (str(tmp_path / f"f.jsonl{packed}"),),
            "templates": str(tmp_path / f"t.json{packed}"),
        }
    )
    (_, table), (_, expected) = open_sources(spec, 0), open_sources(plain, 0)
    assert table == expected


def test_facts_of_another_file_system_may_be_compressed_too(tmp_path: Path) -> None:
    plain = write_facts(tmp_path)
    raw = Path(plain.paths[0]).read_bytes()
    fsspec.filesystem("memory").pipe_file("/text_file/facts.jsonl.gz", gzip.compress(raw))
    spec = plain.model_copy(update={"paths": ("memory://text_file/facts.jsonl.gz",)})
    assert open_sources(spec, 0)[1] == open_sources(plain, 0)[1]


@pytest.mark.parametrize("what", ["facts.jsonl", "templates.json"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (json.dumps(FACTS * 9).encode("utf-16"), "UTF-16 by its first bytes"),
        (json.dumps(FACTS * 9).encode("utf-16-le"), "by its NUL bytes UTF-16LE"),
        (b'{"a": "\xe4"}', "byte 7 is not UTF-8"),
    ],
)
def test_facts_and_templates_of_another_encoding_are_named(
    tmp_path: Path, what: str, raw: bytes, message: str
) -> None:
    spec = write_facts(tmp_path)
    (tmp_path / what).write_bytes(raw)
    with pytest.raises(CorpusError, match=rf"corpus.* {tmp_path}/{what}: {message}"):
        FactTable.read(spec, spec.paths, 0)


@pytest.mark.parametrize("what", ["facts.jsonl", "templates.json"])
def test_a_damaged_archive_and_a_link_to_nothing_are_named(tmp_path: Path, what: str) -> None:
    spec = write_facts(tmp_path)
    raw = gzip.compress((tmp_path / what).read_bytes())
    (tmp_path / f"{what}.gz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / what).unlink()
    (tmp_path / what).symlink_to("gone")
    name = "templates" if what == "templates.json" else "paths"
    with pytest.raises(CorpusError, match=rf"{what}: a link to gone, which does not exist"):
        open_sources(spec, 0)
    given: str | tuple[str] = str(tmp_path / f"{what}.gz")
    given = given if name == "templates" else (given,)
    with pytest.raises(CorpusError, match=rf"{what}\.gz: can't be read: .*end"):
        open_sources(spec.model_copy(update={name: given}), 0)


def test_a_config_may_begin_with_a_mark_and_is_named_where_it_is_wide(tmp_path: Path) -> None:
    text = "name: a\ncorpus:\n  paths: [a.txt]\n"
    path = tmp_path / "co::n [1].yaml"
    path.write_bytes(BOM + text.encode())
    assert load_config(str(path)).corpus.paths == (str(tmp_path / "a.txt"),)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"config .*\.yaml: UTF-16 by its first bytes"):
        load_config(str(path))


def test_lines_end_at_line_ends_alone() -> None:
    assert [*lines_of("a\u2028b\x85c\r\nd\re\n\ufefff")] == ["a\u2028b\x85c\n", "d\n", "e\n", "f"]


def test_a_file_is_read_by_its_exact_name(tmp_path: Path) -> None:
    for name in ("a::b.json", "data:x.json", "t[1].json", "~t.json"):
        (tmp_path / name).write_text(name)
        assert read_text(str(tmp_path / name)) == name
