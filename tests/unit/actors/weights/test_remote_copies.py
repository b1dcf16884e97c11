"""A remote checkpoint is downloaded once for all processes of a machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from actors.weights.remote_copies import KEPT_S, shared_copy
from actors.wire import ConfigError

NAMES = ("config.json", "deep/model.weights")


class Counted(MemoryFileSystem):
    """A store that counts its downloads, each of which takes a while."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.downloads: list[str] = []
        self.broken = False

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self.downloads.append(rpath)
        time.sleep(0.02)
        if self.broken and rpath.endswith(".weights"):
            raise OSError("gone")
        super().get_file(rpath, lpath, **options)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Counted()
    for name in NAMES:
        store.pipe_file(f"/models/a/{name}", name.encode())
    return store


def read(store: Counted) -> dict[str, str]:
    with shared_copy(store, "/models/a", NAMES) as folder:
        return {name: (folder / name).read_text() for name in NAMES}


def test_each_file_is_downloaded_once_however_often_it_is_asked_for(store: Counted) -> None:
    assert [read(store) for _ in range(3)] == [{name: name for name in NAMES}] * 3
    assert len(store.downloads) == len(NAMES)


def test_who_comes_meanwhile_waits_for_the_download(store: Counted) -> None:
    """Locks are by open file, so that threads are to them what processes are."""
    found: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: found.append(read(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{name: name for name in NAMES}] * 4
    assert len(store.downloads) == len(NAMES)


def test_a_file_that_changed_is_downloaded_again(store: Counted) -> None:
    read(store)
    store.pipe_file("/models/a/config.json", b"other")
    assert read(store)["config.json"] == "other"


def test_an_interrupted_download_is_not_taken_for_a_copy(store: Counted) -> None:
    store.broken = True
    with pytest.raises(OSError, match="gone"):
        read(store)
    store.broken = False
    assert read(store) == {name: name for name in NAMES}


def test_a_copy_goes_when_it_was_not_used_for_long_and_stays_while_it_is_read(
    store: Counted, tmp_path: Path
) -> None:
    with (
        shared_copy(store, "/models/a", NAMES) as used,
        shared_copy(store, "/models/a", NAMES[:1]) as idle,
    ):
        pass
    long_ago = time.time() - 2 * KEPT_S
    locks = [folder.with_suffix(".lock") for folder in (used, idle)]
    for lock in locks:
        os.utime(lock, (long_ago, long_ago))
    with open(locks[0], "ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with shared_copy(store, "/models/a", NAMES[1:]):
            pass
    assert (used.exists(), idle.exists()) == (True, False)


def test_a_folder_of_someone_else_is_not_used(
    store: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid()
    (tmp_path / f"tandem-models-{uid + 1}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ConfigError, match="belongs to someone else; set TMPDIR"):
        read(store)


def test_the_copy_of_a_url_is_that_of_its_file_system(tmp_path: Path) -> None:
    fs, path = fsspec.core.url_to_fs("memory://copies-test")
    fs.pipe_file(f"{path}/a", b"1")
    with shared_copy(fs, path, ["a"]) as folder:
        assert (folder / "a").read_bytes() == b"1"
