"""Named writes kept beside an exported memory: read with it, and replaced as a whole.

    DIR/memory_layer/writes/
        manifest.json        the writes in their order, on or off, with the checksums of their files
                             and of the memory that they were solved for; replaced last, whole
        ID-CHECKSUM.json     associations, time, figures      } of one write; never changed, only
        ID-CHECKSUM.safetensors   rows, values, keys          } removed once no manifest names them
        sample-DIGEST.safetensors   encodings of kept text: `jobs.tell.sample_store`
        lock.json            who is changing them; not there in general

Nothing else of the export is ever touched, so taking back all writes gives the trained bits. Where
a new write can't be written, the manifest still names the old ones. Any fsspec URL.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
import xxhash

from actors.layers.named_writes import NamedWrite, NamedWrites
from actors.storage import locate, put_file, remove, storage_errors, writable
from actors.weights.export_files import MARKER, MEMORY_LAYER, WRITES
from actors.weights.lock_file import Holder, locked, refuse_lost
from actors.wire import ConfigError, TandemError

MANIFEST, LOCK = "manifest.json", "lock.json"
FORMAT = 1
KEPT_REMOVED = 1000  # ids of removed writes, which are named as such when they are asked for
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Kept:
    """What a store holds.

    Attributes:
        writes: in their order.
        removed: ids that were taken back, oldest first.
        version: changes with every replacement; empty: there never was one.
    """

    writes: NamedWrites = field(default_factory=NamedWrites)
    removed: tuple[str, ...] = ()
    version: str = ""


class WritesStore:
    """The named writes of one export.

    Args:
        directory: of the export; any fsspec URL.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory.rstrip("/") or "/"
        self._url = f"{self.directory}/{WRITES}"

    def version(self) -> str:
        """As `Kept.version`; reads the manifest alone.

        Raises:
            ConfigError: there is no finished export any more.
            StorageError: its storage is away.
        """
        manifest = self._manifest()
        return str(manifest.get("version", ""))

    def read(self, have: Kept | None = None) -> Kept:
        """The writes that are kept now.

        Args:
            have: what was read before: files that have not changed are not read again.

        Raises:
            ConfigError: a file is missing or was changed, or the memory is not the one that the
                writes were solved for.
            StorageError: its storage is away.
        """
        while True:
            manifest = self._manifest()
            version = str(manifest.get("version", ""))
            if have is not None and have.version == version:
                return have
            try:
                return self._read_all(manifest, version, have)
            except ConfigError:
                if self.version() == version:  # else another process has just replaced them
                    raise

    def _read_all(self, manifest: Mapping[str, Any], version: str, have: Kept | None) -> Kept:
        rows: Sequence[Mapping[str, Any]] = manifest.get("writes", ())
        if rows and manifest["memory"] != (now := self.memory()):
            raise ConfigError(
                f"{self._url}: these {len(rows)} writes were solved for another memory (checksum "
                f"{manifest['memory']}, and that of {self.directory} is {now}): it was trained "
                "further or exported again after it was told. Their associations are in the JSON "
                f"files there; remove {self._url} and tell them again with tandem tell --facts"
            )
        known = {} if have is None else {_checksum(write): write for write in have.writes}
        writes = [self._read(row, known) for row in rows]
        opens_at = {"opens_at": manifest["opens_at"]} if "opens_at" in manifest else {}
        return Kept(
            NamedWrites(tuple(writes), **opens_at), tuple(manifest.get("removed", ())), version
        )

    @contextmanager
    def changing(
        self, doing: str, say: Callable[[str], None] = lambda text: None
    ) -> Iterator[Change]:
        """During the block no other process changes the writes.

        Args:
            doing: what they are changed for, for the message to others.
            say: called where another process has to be waited for.

        Raises:
            LockedError: another process changes them for too long.
            ConfigError: as `read`.
            StorageError: its storage is away or full.
        """
        with storage_errors(self._url, "can't be written"):
            fs, folder = writable(self._url)
            fs.makedirs(folder, exist_ok=True)
        with locked(f"{self._url}/{LOCK}", doing, say) as holder:
            yield Change(self, self.memory(), holder)

    def replace(self, writes: NamedWrites, holder: Holder, memory: str) -> Kept:
        """Keeps these writes instead of those that are kept now; call `Change.keep` instead.

        Raises:
            ConfigError: the memory was exported again, or the lock was lost; nothing changed.
            StorageError: the storage is away or full; nothing changed.
        """
        before = self._manifest()
        ids = {write.id for write in writes}
        gone = [row["id"] for row in before.get("writes", ()) if row["id"] not in ids]
        removed = [id for id in (*before.get("removed", ()), *gone) if id not in ids]
        removed = removed[-KEPT_REMOVED:]
        rows = [{"id": write.id, "on": write.on, "checksum": _checksum(write)} for write in writes]
        manifest = {
            "format": FORMAT,
            "version": holder.token,
            "memory": memory,
            "opens_at": writes.opens_at,
            "writes": rows,
            "removed": removed,
        }
        old = {_stem(row) for row in before.get("writes", ())}
        new: list[str] = []
        fs, folder = writable(self._url)
        try:
            with storage_errors(self._url, "nothing was changed: the write can't be kept"):
                for write, row in zip(writes, rows, strict=True):
                    if (stem := _stem(row)) not in old:
                        new.append(stem)
                        put_file(fs, f"{folder}/{stem}.safetensors", _tensor_bytes(write))
                        put_file(fs, f"{folder}/{stem}.json", _json_bytes(write))
                refuse_lost(f"{self._url}/{LOCK}", holder)
                if self.memory() != memory:
                    raise ConfigError(
                        f"{self.directory}: the memory was exported again meanwhile; nothing was "
                        "told; run the command again"
                    )
                put_file(fs, f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
        except BaseException:
            _drop(fs, folder, new)
            raise
        _drop(fs, folder, sorted(old - {_stem(row) for row in rows}))
        return Kept(writes, tuple(removed), holder.token)

    def _manifest(self) -> dict[str, Any]:
        """The manifest; empty where nothing was ever told."""
        with storage_errors(self._url, "can't be read"):
            fs, folder = locate(self._url)
            fs.invalidate_cache()
            try:
                text = fs.cat_file(f"{folder}/{MANIFEST}")
            except FileNotFoundError:
                _, export = locate(self.directory)
                if not fs.exists(f"{export}/{MARKER}"):
                    raise ConfigError(
                        f"{self.directory}: the export is gone ({MARKER} is missing)"
                    ) from None
                return {}
        try:
            manifest = dict(json.loads(text))
            if manifest["format"] != FORMAT:
                raise ConfigError(
                    f"{self._url}/{MANIFEST}: format {manifest['format']}, expected {FORMAT}; it "
                    "was written by another version of Tandem"
                )
        except (ValueError, KeyError, TypeError) as err:
            if isinstance(err, TandemError):
                raise
            raise ConfigError(
                f"{self._url}/{MANIFEST}: not a manifest of writes: {err}; restore it, or remove "
                "the folder, which takes back all that was told"
            ) from err
        return manifest

    def memory(self) -> str:
        """A checksum of the trained memory as its export states it."""
        with storage_errors(self.directory, "can't be read"):
            fs, export = locate(self.directory)
            fs.invalidate_cache()
            try:
                marker = json.loads(fs.cat_file(f"{export}/{MARKER}"))
            except FileNotFoundError:
                raise ConfigError(
                    f"{self.directory}: the export is gone ({MARKER} is missing)"
                ) from None
        sums = marker.get("checksums", {}).get(MEMORY_LAYER, {})
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:16]

    def _read(self, row: Mapping[str, Any], known: Mapping[str, NamedWrite]) -> NamedWrite:
        if row["checksum"] in known:
            return replace(known[row["checksum"]], on=bool(row["on"]))
        where = f"{self._url}/{_stem(row)}"
        with storage_errors(where, "can't be read"):
            fs, path = locate(where)
            try:
                tensors = safetensors.torch.load(fs.cat_file(f"{path}.safetensors"))
                described = {**json.loads(fs.cat_file(f"{path}.json")), "on": row["on"]}
                write = NamedWrite.from_tensors(tensors, described)
            except FileNotFoundError as err:
                raise ConfigError(
                    f"{where}: a file of write {row['id']} is missing; {self._repair()}"
                ) from err
            except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as err:
                raise ConfigError(f"{where}: not a write: {err}; {self._repair()}") from err
        if _checksum(write) != row["checksum"]:
            raise ConfigError(
                f"{where}: checksum {_checksum(write)}, expected {row['checksum']}: its files were "
                f"changed; {self._repair()}"
            )
        return write

    def _repair(self) -> str:
        return f"restore it, or remove the folder {self._url}, which takes back all that was told"


@dataclass(frozen=True)
class Change:
    """What holds the lock of a store, and may replace its writes.

    Attributes:
        store: whose writes.
        memory: checksum of the memory when the lock was taken.
        holder: this process.
    """

    store: WritesStore
    memory: str
    holder: Holder

    def keep(self, writes: NamedWrites) -> Kept:
        """Keeps these writes from now on, all or nothing. Raises: as `WritesStore.replace`."""
        return self.store.replace(writes, self.holder, self.memory)


def refuse_unfit_id(id: str) -> None:
    """Raises: ConfigError: it can't be part of a file's name."""
    if not ID.fullmatch(id):
        raise ConfigError(
            f"id {id!r}: expected letters, digits, dots, - and _, up to 100, the first of them a "
            "letter or digit"
        )


def _stem(row: Mapping[str, Any]) -> str:
    """Name of a write's files without their endings."""
    return f"{row['id']}-{row['checksum']}"


def _checksum(write: NamedWrite) -> str:
    """A checksum of all that a write's files hold."""
    digest = xxhash.xxh3_64(_json_bytes(write))
    for name, tensor in sorted(write.to_tensors().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def _json_bytes(write: NamedWrite) -> bytes:
    described = {name: value for name, value in write.to_json().items() if name != "on"}
    return json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _tensor_bytes(write: NamedWrite) -> bytes:
    return bytes(safetensors.torch.save(write.to_tensors()))


def _drop(fs: Any, folder: str, stems: Sequence[str]) -> None:
    """Removes files of writes that no manifest names; those that can't be are only litter."""
    for stem in stems:
        for ending in (".json", ".safetensors"):
            with suppress(Exception):
                remove(fs, f"{folder}/{stem}{ending}")
