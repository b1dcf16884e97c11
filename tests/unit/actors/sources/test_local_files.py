"""Local files: links are followed and named where they lead nowhere; an exact name goes before a
pattern, whatever is in it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from actors.sources.local_files import files_below, files_matching, split_pattern
from actors.sources.paths import expand_paths, is_there, list_files
from actors.sources.text_file import read_bytes, read_text
from actors.wire import CorpusError
from tests.unit.actors.sources.test_paths import names_of, write


def below(path: Path) -> list[str]:
    return [Path(name).relative_to(path).as_posix() for name in expand_paths([str(path)])]


def test_links_to_files_are_read_under_their_own_names(tmp_path: Path) -> None:
    write(tmp_path, "blobs/3f", "blobs/9c")
    snapshot = tmp_path / "snapshots/main"
    snapshot.mkdir(parents=True)
    (snapshot / "a.jsonl").symlink_to("../../blobs/3f")
    (snapshot / "b.jsonl.gz").symlink_to("../../blobs/9c")
    found = {f.path: (f.size, f.format, f.codec) for f in list_files([str(snapshot / "*")])}
    assert found == {
        str(snapshot / "a.jsonl"): (10, "jsonl", None),
        str(snapshot / "b.jsonl.gz"): (10, "jsonl", "gzip"),
    }
    assert below(snapshot) == ["a.jsonl", "b.jsonl.gz"]
    assert list_files([str(snapshot / "a.jsonl")])[0].read(2, 4) == b"xx"


def test_folders_behind_links_are_walked(tmp_path: Path) -> None:
    write(tmp_path, "corpus/a.txt", "elsewhere/deep/b.txt")
    (tmp_path / "corpus/more").symlink_to("../elsewhere")
    (tmp_path / "linked").symlink_to("corpus")
    assert below(tmp_path / "corpus") == ["a.txt", "more/deep/b.txt"]
    assert below(tmp_path / "linked") == ["a.txt", "more/deep/b.txt"]
    assert names_of(list_files([str(tmp_path / "corpus/*/deep/*.txt")])) == ["b.txt"]
    assert names_of(list_files([str(tmp_path / "corpus/**/b.txt")])) == ["b.txt"]


def test_a_circle_of_links_is_walked_once_round(tmp_path: Path) -> None:
    write(tmp_path, "corpus/a.txt", "corpus/sub/b.txt")
    (tmp_path / "corpus/sub/up").symlink_to("..")
    (tmp_path / "corpus/here").symlink_to(".")
    assert below(tmp_path / "corpus") == ["a.txt", "sub/b.txt"]
    assert names_of(list_files([str(tmp_path / "corpus/**/*.txt")])) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("target", ["../gone/9c", "b.txt"])
@pytest.mark.parametrize("entry", ["", "*", "*.txt", "b.txt"])
def test_a_link_to_nothing_is_named(tmp_path: Path, target: str, entry: str) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(target)
    with pytest.raises(
        CorpusError, match=rf"/b\.txt: a link to {target}, which does not exist; restore"
    ):
        list_files([str(tmp_path / entry)])


def test_a_link_to_nothing_that_is_no_data_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / ".#a.txt").symlink_to("somebody@host.1234")
    (tmp_path / "b.csv").symlink_to("gone")
    (tmp_path / "_gone").symlink_to("gone")
    assert names_of(list_files([str(tmp_path / "*.txt")])) == ["a.txt"]
    (tmp_path / "b.csv").unlink()
    assert below(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder", "hard link"])
def test_one_file_under_two_names_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "corpus/one/a.txt")
    corpus = tmp_path / "corpus"
    if kind == "file":
        (corpus / "b.txt").symlink_to("one/a.txt")
    elif kind == "folder":
        (corpus / "two").symlink_to("one")
    else:
        os.link(corpus / "one/a.txt", corpus / "b.txt")
    with pytest.raises(CorpusError, match=r"\.txt: the same file as .*\.txt; what one copy holds"):
        list_files([str(corpus)])


def test_names_of_one_empty_file_are_no_text_twice(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "blob").touch()
    for name in ("b.txt", "c.txt"):
        (tmp_path / name).symlink_to("blob")
    assert names_of(list_files([str(tmp_path / "*.txt")])) == ["a.txt", "b.txt", "c.txt"]


def test_a_url_and_a_path_of_one_file_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    with pytest.raises(CorpusError, match="the same file as"):
        list_files([str(tmp_path / "a.txt"), f"file://{tmp_path}/a.txt"])


STRANGE = [
    "notes [2024].txt",
    "data[1].txt",
    "what?.txt",
    "a*b.txt",
    "col::on.txt",
    "data:x.txt",
    "~ours.txt",
    "100% #1 & more.txt",
    "a{b,c}.txt",
    "back\\slash.txt",
]


@pytest.mark.parametrize("name", STRANGE)
def test_an_existing_name_goes_before_a_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "data1.txt", "what1.txt", "aab.txt", "b.txt")
    assert names_of(list_files([str(tmp_path / name)])) == [name]
    assert is_there(str(tmp_path / name))


@pytest.mark.parametrize("name", ["proj [v1]", "a*", "col::on", "what?"])
@pytest.mark.parametrize("entry", ["a.txt", "*.txt", "", "**/a.txt"])
def test_a_folder_is_no_pattern(tmp_path: Path, name: str, entry: str) -> None:
    write(tmp_path, f"{name}/a.txt", "proj v/a.txt", "ab/a.txt", "whatx/a.txt")
    found = expand_paths([str(tmp_path / name / entry)])
    assert found == [str(tmp_path / name / "a.txt")]


def test_a_pattern_with_brackets_is_one_where_nothing_has_its_name(tmp_path: Path) -> None:
    write(tmp_path, "a1.txt", "a2.txt", "b1.txt", "sub/a1.txt", ".a1.txt")
    assert names_of(list_files([str(tmp_path / "a[12].txt")])) == ["a1.txt", "a2.txt"]
    assert names_of(list_files([str(tmp_path / "[!b]?.txt")])) == ["a1.txt", "a2.txt"]
    assert split_pattern(f"{tmp_path}/a[12].txt") == (str(tmp_path), "a[12].txt")
    assert not is_there(str(tmp_path / "c[12].txt"))


def test_a_pattern_looks_no_deeper_than_it_says(tmp_path: Path) -> None:
    write(tmp_path, "a/x.txt", "b/x.txt", "b/c/x.txt")
    (tmp_path / "b/c").chmod(0)
    try:
        found = [f.name for f in files_matching(str(tmp_path), "*/x.txt")]
    finally:
        (tmp_path / "b/c").chmod(0o700)
    assert found == ["a/x.txt", "b/x.txt"]
    assert [f.name for f in files_below(str(tmp_path), lambda name: name == "b")] == ["a/x.txt"]


def test_a_folder_without_files_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "empty/pipe.txt")
    with pytest.raises(CorpusError, match=r"empty: no file in that directory"):
        list_files([str(tmp_path / "empty")])


def test_pipes_sockets_and_devices_are_refused_by_name_before_they_are_opened(
    tmp_path: Path,
) -> None:
    """Opening a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "linked.txt").symlink_to("pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "s.txt"))  # short: it may have 107 characters
        for name, kind in {
            str(tmp_path / "pipe.txt"): "pipe",
            str(tmp_path / "linked.txt"): "pipe",
            str(tmp_path / "s.txt"): "socket",
            "/dev/null": "device",
        }.items():
            for read in (lambda name: list_files([name]), read_bytes, read_text):
                with pytest.raises(CorpusError, match=rf"^{name} is a {kind}, expected a file"):
                    read(name)
