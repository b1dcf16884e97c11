"""File systems to write to."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from actors.storage import locate, move_file, remove, writable


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_folder_is_made_as_it_is_written_to(tmp_path: Path, scheme: str) -> None:
    fs, root = writable(f"{scheme}{tmp_path}/a/b")
    fs.pipe_file(f"{root}/c.txt", b"here")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"here"


def test_another_file_system_gets_no_option_of_local_ones() -> None:
    fs, root = writable("s3://bucket/run")
    assert root == "bucket/run"
    assert "auto_mkdir" not in fs.storage_options


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="Protocol not known"):
        writable("nowhere://x")


def test_memory_is_a_file_system_too() -> None:
    fs, root = writable("memory://run")
    fs.pipe_file(f"{root}/x", b"1")
    assert fsspec.filesystem("memory").cat_file("/run/x") == b"1"


@pytest.mark.parametrize("name", ["a::b", "runs [v1]", "100% #1?", "data:x", "file:x"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_name_is_what_it_says(tmp_path: Path, scheme: str, name: str) -> None:
    fs, root = locate(f"{scheme}{tmp_path}/{name}/")
    assert root == f"{tmp_path}/{name}"
    fs.pipe_file(root, b"here")
    assert (tmp_path / name).read_bytes() == b"here"


def test_a_relative_name_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("data:x::y")[1] == f"{tmp_path}/data:x::y"
    assert locate("~/x")[1] == str(Path.home() / "x")


def test_brackets_of_a_bucket_are_no_pattern_when_files_are_moved_and_removed() -> None:
    fs, root = locate("memory://brackets/runs [v1]")
    for folder in (root, "/brackets/runs v", "/brackets/runs 1"):
        fs.pipe_file(f"{folder}/a", folder.encode())
    move_file(fs, f"{root}/a", f"{root}/b")
    assert fs.cat_file(f"{root}/b") == root.encode()
    remove(fs, root)
    assert fs.find("/brackets") == ["/brackets/runs 1/a", "/brackets/runs v/a"]
    with pytest.raises(FileNotFoundError):
        remove(fs, root)
