"""File systems to write to."""

from __future__ import annotations

import errno
import gzip
import pickle
from pathlib import Path

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError

from actors.storage import (
    AGAIN,
    is_lasting,
    is_outage,
    locate,
    move_file,
    remove,
    storage_errors,
    writable,
)
from actors.wire import ConfigError, StorageError


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


class RemoteError(Exception):
    """What a client of remote storage raises; its module says that it is one."""

    __module__ = "botocore.exceptions"


class NoCredentialsError(RemoteError):
    __module__ = "botocore.exceptions"


class AnsweredError(RemoteError):
    """An answer with a status."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class BotoAnsweredError(RemoteError):
    __module__ = "botocore.exceptions"

    def __init__(self, status: int) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


AWAY = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EBUSY, "SlowDown"),  # as s3fs says 503
    ConnectionRefusedError("refused"),
    TimeoutError("too long"),
    FSTimeoutError("too long"),
    RemoteError("Could not connect to the endpoint URL"),
    AnsweredError(503),
    AnsweredError(429),
    BotoAnsweredError(500),
]
WRONG = [
    FileNotFoundError("no such bucket"),
    PermissionError("denied"),
    NotADirectoryError("a file"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    ValueError("no such protocol"),
    NoCredentialsError("Unable to locate credentials"),
    AnsweredError(404),
    BotoAnsweredError(403),
]
IN_A_FILE = [gzip.BadGzipFile("Not a gzipped file"), OSError("Invalid data stream"), KeyError("a")]


@pytest.mark.parametrize("err", AWAY, ids=repr)
def test_storage_that_is_away_full_or_broken_is_an_outage(err: Exception) -> None:
    assert is_outage(err)
    assert not is_lasting(err)


@pytest.mark.parametrize("err", WRONG, ids=repr)
def test_what_was_asked_for_wrongly_is_none(err: Exception) -> None:
    assert is_lasting(err)
    assert not is_outage(err)


@pytest.mark.parametrize("err", IN_A_FILE, ids=repr)
def test_nor_is_what_is_wrong_with_the_bytes_of_a_file(err: Exception) -> None:
    assert not is_outage(err)


def test_an_outage_is_told_with_its_place_and_what_to_do() -> None:
    with (
        pytest.raises(StorageError) as failed,
        storage_errors("s3://bucket/a.txt", "can't be read"),
    ):
        raise AnsweredError(503)
    assert (
        str(failed.value) == f"s3://bucket/a.txt: can't be read: AnsweredError: status 503; {AGAIN}"
    )


@pytest.mark.parametrize("err", [*WRONG, *IN_A_FILE, ConfigError("mine"), StorageError("mine")])
def test_everything_else_passes(err: Exception) -> None:
    with pytest.raises(type(err)) as failed, storage_errors("s3://bucket/a.txt", "can't be read"):
        raise err
    assert failed.value is err


def test_a_storage_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(StorageError("away")))
    assert (type(copy), str(copy)) == (StorageError, "away")
