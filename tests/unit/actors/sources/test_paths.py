"""Paths: which files an entry stands for, what they are taken for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from actors.sources.paths import File, expand_paths, file_system, list_files, split_name
from actors.wire import ConfigError, CorpusError


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


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x" * 10, encoding="utf-8")


def names_of(files: list[File]) -> list[str]:
    return [Path(f.path).name for f in files]


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [
        ("a.txt", "text", None),
        ("A.TXT", "text", None),
        ("a.md", "text", None),
        ("README", "text", None),
        ("a.py", "text", None),
        ("a.v1.jsonl", "jsonl", None),
        ("a.ndjson", "jsonl", None),
        ("a.json", "jsonl", None),
        ("a.parquet", "parquet", None),
        ("a.txt.gz", "text", "gzip"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.json.bz2", "jsonl", "bz2"),
        ("a.ndjson.xz", "jsonl", "xz"),
        ("a.jsonl.lz4", "jsonl", "lz4"),
        ("a.gz", "text", "gzip"),
    ],
)
def test_the_format_goes_by_the_extension_below_that_of_the_compression(
    tmp_path: Path, name: str, kind: str, codec: str | None
) -> None:
    write(tmp_path, name)
    (file,) = list_files([str(tmp_path / name)])
    assert (file.format, file.codec, file.size) == (kind, codec, 10)


def test_a_chosen_format_goes_before_the_extension(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    assert list_files([str(tmp_path / "a.txt")], "jsonl")[0].format == "jsonl"


def test_marks_and_hidden_files_of_a_directory_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "_SUCCESS", ".hidden.txt", "_temporary/b.txt", ".git/c.txt", "d/e.txt")
    assert names_of(list_files([str(tmp_path)])) == ["a.txt", "e.txt"]


def test_a_directory_of_tables_and_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "a.parquet", "b.parquet")
    with pytest.raises(
        CorpusError, match=r"2 parquet \(a\.parquet, …\), 1 text \(README\.md\); set corpus\.format"
    ):
        list_files([str(tmp_path)])


@pytest.mark.parametrize("entry", ["", "*"])
def test_a_chosen_format_takes_its_files_from_a_directory(tmp_path: Path, entry: str) -> None:
    write(tmp_path, "README.md", "a.parquet", "b.parquet", "logo.png")
    assert names_of(list_files([str(tmp_path / entry)], "parquet")) == ["a.parquet", "b.parquet"]


def test_text_and_tables_named_apart_may_be_mixed(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.jsonl")
    files = list_files([str(tmp_path / "a.txt"), str(tmp_path / "*.jsonl")])
    assert [f.format for f in files] == ["text", "jsonl"]


@pytest.mark.parametrize("name", ["a.csv", "photo.png", "weights.safetensors", "b.tar.gz"])
def test_a_file_of_a_foreign_format_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.txt", name)
    with pytest.raises(CorpusError, match=rf"{name}: \.\w+ files are not read"):
        list_files([str(tmp_path)])


def test_compressed_parquet_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet.gz")
    with pytest.raises(CorpusError, match=r"a\.parquet\.gz: Parquet inside gzip"):
        list_files([str(tmp_path)])


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    with pytest.raises(CorpusError, match=r"a\.txt: named twice"):
        list_files([str(tmp_path), str(tmp_path / "a.txt")])


def test_files_of_any_file_system_are_listed_and_read() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/corpus/b/one.txt", b"0123456789")
    fs.pipe_file("/corpus/b/two.txt", b"01234")
    files = list_files(["memory://corpus/b"])
    assert [(f.path, f.size, f.local) for f in files] == [
        ("memory:///corpus/b/one.txt", 10, False),
        ("memory:///corpus/b/two.txt", 5, False),
    ]
    assert files[0].read(3, 7) == b"3456"


def test_a_file_of_unknown_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/unsized/a.txt", b"01234")
    info = type(fs).info

    def sizeless(self: Any, path: str, **options: Any) -> dict[str, Any]:
        return {**info(self, path, **options), "size": None}

    monkeypatch.setattr(type(fs), "info", sizeless)
    with pytest.raises(CorpusError, match=r"unsized/a\.txt: its server does not report a size"):
        list_files(["memory://unsized/a.txt"])


@pytest.mark.parametrize(
    ("url", "extra"),
    [("s3://b/a.txt", "s3"), ("gs://b/a.txt", "gcs"), ("abfs://c@a/x.txt", "azure")],
)
def test_a_missing_package_is_named_by_its_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, extra: str
) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Install something")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=rf"pip install 'tandem-memory\[{extra}\]'"):
        file_system(url)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (file,) = list_files([str(tmp_path / "a.txt")])
    (tmp_path / "a.txt").write_text("x" * 7, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"10 bytes when it was listed, but ends at byte 7"):
        file.read(0, 10)


def test_whatever_a_remote_file_system_raises_names_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class BotoError(Exception):
        pass

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/broken/a.txt", b"01234")
    (file,) = list_files(["memory://broken/a.txt"])

    def fail(*_: Any, **__: Any) -> None:
        raise BotoError("Unable to locate credentials")

    monkeypatch.setattr(type(fs), "cat_file", fail)
    with pytest.raises(CorpusError, match=r"broken/a\.txt: .*BotoError: Unable to locate"):
        file.read(0, 5)


@pytest.mark.parametrize("name", ["a.JSONL.GZ", "x/y.z/a.jsonl.gz"])
def test_names_are_split_without_regard_to_case_or_folder(name: str) -> None:
    assert split_name(name) == (".jsonl", "gzip")
