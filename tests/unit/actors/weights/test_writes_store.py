"""Named writes beside an export: what is kept is read, and nothing else of it ever changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from actors.layers.named_writes import NamedWrites
from actors.weights.export_files import WRITES
from actors.weights.lock_file import LockedError
from actors.weights.pair_export import copy_export, load_pair, pair_folder
from actors.weights.writes_store import Kept, WritesStore, refuse_unfit_id
from actors.wire import ConfigError, StorageError
from tests.unit.actors.tiny_pair import exported
from tests.unit.actors.told import assert_same, made_write


@pytest.fixture(params=["local", "memory"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder with an export's marker."""
    url = f"{tmp_path}/export" if request.param == "local" else f"memory://{uuid4().hex}/export"
    mark(url, "a1")
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def mark(url: str, checksum: str) -> None:
    fs, path = fsspec.core.url_to_fs(url)
    fs.makedirs(path, exist_ok=True)
    marker = {"format": 1, "checksums": {"memory_layer": {"values": checksum}}}
    fs.pipe_file(f"{path}/export.json", json.dumps(marker).encode())


def keep(store: WritesStore, writes: NamedWrites) -> Kept:
    with store.changing("tell") as change:
        return change.keep(writes)


def names(url: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(f"{url}/{WRITES}")
    return sorted(str(p).rpartition("/")[2] for p in fs.find(path))


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_told_is_nothing_kept(export: str) -> None:
    kept = WritesStore(export).read()
    assert len(kept.writes) == 0
    assert kept.version == WritesStore(export).version() == ""


def test_writes_are_read_as_they_were_kept_in_their_order(export: str) -> None:
    first, second = made_write("b", 1), made_write("a", 2, on=False)
    done = keep(WritesStore(export), NamedWrites((first, second), opens_at=0.25))
    kept = WritesStore(export).read()
    assert [write.id for write in kept.writes] == ["b", "a"]
    assert kept.writes.opens_at == 0.25
    assert_same(kept.writes.writes[0], first)
    assert_same(kept.writes.writes[1], second)
    assert kept.version == done.version != ""


def test_a_write_that_is_gone_leaves_no_file_and_its_name(export: str) -> None:
    store, writes = WritesStore(export), NamedWrites((made_write("a", 1), made_write("b", 2)))
    keep(store, writes)
    keep(store, writes.remove("a"))
    kept = store.read()
    assert [write.id for write in kept.writes] == ["b"]
    assert kept.removed == ("a",)
    assert [n.partition("-")[0] for n in names(export) if n != "manifest.json"] == ["b", "b"]
    keep(store, kept.writes.add(made_write("a", 5)))  # told again under the same name
    assert store.read().removed == ()


def test_switching_writes_the_manifest_alone(export: str) -> None:
    store, writes = WritesStore(export), NamedWrites((made_write("a", 1), made_write("b", 2)))
    keep(store, writes)
    before = names(export)
    keep(store, writes.switch("a", on=False))
    assert names(export) == before
    assert [write.on for write in store.read().writes] == [False, True]


def test_a_write_that_was_solved_again_takes_the_place_of_its_files(export: str) -> None:
    store = WritesStore(export)
    keep(store, NamedWrites((made_write("a", 1),)))
    keep(store, NamedWrites((made_write("a", 7),)))
    assert_same(store.read().writes.writes[0], made_write("a", 7))
    assert len(names(export)) == 3


def test_files_that_did_not_change_are_not_read_again(export: str) -> None:
    store = WritesStore(export)
    writes = NamedWrites((made_write("a", 1),))
    keep(store, writes)
    kept = store.read()
    assert store.read(kept) is kept
    keep(store, kept.writes.add(made_write("b", 2)))
    assert store.read(kept).writes.writes[0].values_UD is kept.writes.writes[0].values_UD


def test_a_memory_that_was_trained_further_refuses_what_was_solved_for_the_one_before(
    export: str,
) -> None:
    store = WritesStore(export)
    keep(store, NamedWrites((made_write("a", 1),)))
    mark(export, "a2")
    with pytest.raises(ConfigError, match=r"1 writes were solved for another memory .* trained"):
        store.read()


def test_a_memory_that_is_exported_again_meanwhile_is_told_nothing(export: str) -> None:
    store = WritesStore(export)
    with store.changing("tell") as change:
        mark(export, "a2")
        with pytest.raises(ConfigError, match="exported again meanwhile; nothing was told"):
            change.keep(NamedWrites((made_write("a", 1),)))
    assert names(export) == []


def test_a_lock_that_was_lost_changes_nothing(tmp_path: Path) -> None:
    mark(str(tmp_path), "a1")
    store = WritesStore(str(tmp_path))
    with store.changing("tell") as change:
        (tmp_path / WRITES / "lock.json").write_text("{}")
        with pytest.raises(LockedError, match="nothing was changed"):
            change.keep(NamedWrites((made_write("a", 1),)))
    assert names(str(tmp_path)) == ["lock.json"]


@pytest.mark.parametrize(
    ("fails_at", "ending"),
    [("a-", "safetensors"), ("a-", "json"), ("b-", "safetensors"), ("manifest", "json")],
)
def test_a_full_disk_in_the_middle_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str, ending: str
) -> None:
    mark(str(tmp_path), "a1")
    store = WritesStore(str(tmp_path))
    kept = keep(store, NamedWrites((made_write("old", 3),)))
    before = content(tmp_path)
    put, failed = LocalFileSystem.pipe_file, []

    def full(self: LocalFileSystem, path: str, value: bytes, **options: Any) -> None:
        name = path.rpartition("/")[2].removesuffix(".part")
        if name.startswith(fails_at) and name.endswith(ending):
            put(self, path, value[: len(value) // 2], **options)
            failed.append(name)
            raise OSError(28, "No space left on device")
        put(self, path, value, **options)

    more = kept.writes.add(made_write("a", 1)).add(made_write("b", 2))
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", full)
        with pytest.raises(StorageError, match="nothing was changed"):
            keep(store, more)
    assert failed
    assert content(tmp_path) == before
    keep(store, more)
    assert [write.id for write in store.read().writes] == ["old", "a", "b"]


@pytest.mark.parametrize("harm", ["bytes", "missing", "json"])
def test_a_write_whose_file_was_harmed_is_named(tmp_path: Path, harm: str) -> None:
    mark(str(tmp_path), "a1")
    store = WritesStore(str(tmp_path))
    keep(store, NamedWrites((made_write("atlantis", 3),)))
    (tensors,) = (tmp_path / WRITES).glob("*.safetensors")
    if harm == "bytes":
        raw = bytearray(tensors.read_bytes())
        raw[-1] ^= 1
        tensors.write_bytes(bytes(raw))
    elif harm == "missing":
        tensors.unlink()
    else:
        tensors.with_suffix(".json").write_text("{")
    with pytest.raises(ConfigError, match=r"atlantis-.*restore it, or remove the folder"):
        store.read()


def test_a_manifest_that_is_none_is_named(tmp_path: Path) -> None:
    mark(str(tmp_path), "a1")
    (tmp_path / WRITES).mkdir(parents=True)
    manifest = tmp_path / WRITES / "manifest.json"
    for text in ("{", "[]", '{"format": 9}'):
        manifest.write_text(text)
        with pytest.raises(ConfigError, match="manifest"):
            WritesStore(str(tmp_path)).read()


def test_an_export_that_is_gone_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    mark(str(folder), "a1")
    store = WritesStore(str(folder))
    keep(store, NamedWrites((made_write("a", 1),)))
    shutil.rmtree(folder)
    for ask in (store.version, store.read):
        with pytest.raises(ConfigError, match="the export is gone"):
            ask()


def test_an_id_that_can_be_no_file_is_refused() -> None:
    refuse_unfit_id("2026-11-29.atlantis_1")
    for wrong in ("", "../up", "a b", "-x", "x" * 101, "ä"):
        with pytest.raises(ConfigError, match="expected letters, digits"):
            refuse_unfit_id(wrong)


def test_a_write_costs_its_rows(tmp_path: Path) -> None:
    mark(str(tmp_path), "a1")
    write = made_write("a", 1, num_rows=40)
    keep(WritesStore(str(tmp_path)), NamedWrites((write,)))
    (tensors,) = (tmp_path / WRITES).glob("*.safetensors")
    assert write.num_bytes <= tensors.stat().st_size < write.num_bytes + 2000
    assert torch.equal(WritesStore(str(tmp_path)).read().writes.writes[0].rows_U, write.rows_U)


def test_a_pair_is_exported_and_loaded_with_what_it_was_told(tmp_path: Path) -> None:
    pair, tokenizer = exported(tmp_path / "first")
    writes = NamedWrites((made_write("a", 1), made_write("b", 2, on=False)), opens_at=0.3)
    pair.memory.writes = writes
    for url in (f"{tmp_path}/second", f"memory://{uuid4().hex}/second"):
        with pair_folder(tokenizer, pair) as root:
            copy_export(root, url)
        loaded, _ = load_pair(url)
        assert [write.to_json() for write in loaded.memory.writes] == [w.to_json() for w in writes]
        assert loaded.memory.writes.opens_at == 0.3
        assert torch.equal(loaded.memory.values, pair.memory.values)
        assert "lock.json" not in names(url)


def test_an_export_over_another_one_drops_what_that_was_told(tmp_path: Path) -> None:
    pair, tokenizer = exported(tmp_path / "first")
    keep(WritesStore(f"{tmp_path}/first"), NamedWrites((made_write("a", 1),)))
    assert len(load_pair(f"{tmp_path}/first")[0].memory.writes) == 1
    with pair_folder(tokenizer, pair) as root:
        copy_export(root, f"{tmp_path}/first")
    assert len(load_pair(f"{tmp_path}/first")[0].memory.writes) == 0
