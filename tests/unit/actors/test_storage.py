"""File systems to write to."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from actors.storage import writable


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
