"""Committed pairs on storage: written whole, verified when read, the newest sound one found.

    checkpoints/000040/data-000.safetensors …    parts of the data group's state
    checkpoints/000040/memory-000.safetensors …  and of the memory group's
    checkpoints/000040/metrics.json.gz           rows so far
    checkpoints/000040/manifest.json             last: where it is, all is

No pickle. Knows files and refs, no actors and no threads.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.numpy
import xxhash
from safetensors import SafetensorError

from actors.machine.host_memory import ByteArray, checksum
from actors.settings.run import GROUPS
from actors.wire import CheckpointError, CheckpointHeader, ConfigError
from orchestrator.loop.exchange import GroupCheckpoint, PairCheckpoint, Tally
from orchestrator.loop.ports import ObjectStore
from orchestrator.run_dir.metrics import SavedRows
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.file_names import CHECKPOINTS

FORMAT = 1
MANIFEST, ROWS = "manifest.json", "metrics.json.gz"
TENSOR = "bytes"


@dataclass(frozen=True)
class Restored:
    """A pair read back, its parts in the object store."""

    pair: PairCheckpoint
    rows: SavedRows


def folder(interval: int) -> str:
    """Where in a run the pair of that interval lies."""
    return f"{CHECKPOINTS}/{interval:06d}"


def save(run_dir: RunDir, pair: PairCheckpoint, rows: SavedRows, store: ObjectStore) -> int:
    """Writes a pair, whose parts `store` has, the manifest last; returns its bytes.

    Raises:
        ConfigError: the storage can't be written.
    """
    root, total = folder(pair.interval), 0
    groups = {}
    for name in GROUPS:
        saved = pair.groups[name]
        for index, ref in enumerate(saved.bucket_refs):
            content = safetensors.numpy.save({TENSOR: store.get(ref)})
            run_dir.write(f"{root}/{_part(name, index)}", content)
            total += len(content)
        groups[name] = [asdict(header) for header in saved.headers]
    packed = gzip.compress(json.dumps(vars(rows)).encode(), compresslevel=1)
    run_dir.write(f"{root}/{ROWS}", packed)
    body = {
        "format": FORMAT,
        "interval": pair.interval,
        "groups": groups,
        "tally": asdict(pair.tally),
        "rows_checksum": xxhash.xxh3_64_hexdigest(packed),
    }
    run_dir.write_json(f"{root}/{MANIFEST}", {"checksum": _digest(_canonical(body)), "body": body})
    return total


def load(run_dir: RunDir, warn: Callable[[str], None], store: ObjectStore) -> Restored | None:
    """The newest pair that is whole and unaltered; None where there is none at all.

    Args:
        run_dir: the run.
        warn: receives each pair that is passed over, and why.
        store: keeps the pair's parts.

    Raises:
        CheckpointError: there are pairs, but none of them is sound.
    """
    broken: list[str] = []
    for interval in reversed(intervals(run_dir)):
        try:
            return _load_one(run_dir, interval, store)
        except CheckpointError as err:
            warn(f"{err}; the pair before it is tried")
            broken.append(str(err))
    if broken:
        raise CheckpointError(
            f"no checkpoint of {run_dir.url} can be used: {broken[0]}; start again under another "
            "name=…"
        )
    return None


def intervals(run_dir: RunDir) -> list[int]:
    """Intervals of which there is a manifest, ascending."""
    names = run_dir.list_folders(CHECKPOINTS)
    found = sorted(int(name) for name in names if name.isdigit())
    return [i for i in found if run_dir.exists(f"{folder(i)}/{MANIFEST}")]


def file_names(run_dir: RunDir, interval: int) -> list[str]:
    """The files of a pair, in the run's directory; the manifest last.

    Raises:
        CheckpointError: its manifest can't be read.
    """
    root = folder(interval)
    try:
        groups = json.loads(run_dir.read(f"{root}/{MANIFEST}"))["body"]["groups"]
        sizes = {name: sum(len(header["checksums"]) for header in groups[name]) for name in GROUPS}
    except (ConfigError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"checkpoint {run_dir.path(root)}: can't be read: {err}") from err
    parts = [_part(name, index) for name in GROUPS for index in range(sizes[name])]
    return [f"{root}/{name}" for name in (*parts, ROWS, MANIFEST)]


def saved_rows(run_dir: RunDir, interval: int) -> SavedRows:
    """The metrics that go with a pair. Raises: CheckpointError."""
    name = f"{folder(interval)}/{ROWS}"
    try:
        return SavedRows(**json.loads(gzip.decompress(run_dir.read_bytes(name))))
    except (ConfigError, OSError, ValueError, TypeError) as err:
        raise CheckpointError(f"checkpoint {run_dir.path(name)}: can't be read: {err}") from err


def remove(run_dir: RunDir, interval: int) -> None:
    """Removes a pair, its manifest first: what is half removed is no pair."""
    run_dir.remove(f"{folder(interval)}/{MANIFEST}")
    run_dir.remove(folder(interval))


def remove_unfinished(run_dir: RunDir) -> None:
    """Removes what earlier drivers left of pairs that they did not finish writing."""
    whole = set(intervals(run_dir))
    for name in run_dir.list_folders(CHECKPOINTS):
        if not name.isdigit() or int(name) not in whole:
            run_dir.remove(f"{CHECKPOINTS}/{name}")


def _load_one(run_dir: RunDir, interval: int, store: ObjectStore) -> Restored:
    root = folder(interval)
    try:
        manifest = json.loads(run_dir.read(f"{root}/{MANIFEST}"))
        body = manifest["body"]
        if manifest["checksum"] != _digest(_canonical(body)):
            raise CheckpointError(f"{run_dir.path(root)}/{MANIFEST}: its bytes were altered")
        if body["format"] != FORMAT:
            raise CheckpointError(
                f"{run_dir.path(root)}: format {body['format']}, this version reads {FORMAT}"
            )
        packed = run_dir.read_bytes(f"{root}/{ROWS}")
        if xxhash.xxh3_64_hexdigest(packed) != body["rows_checksum"]:
            raise CheckpointError(f"{run_dir.path(root)}/{ROWS}: its bytes were altered")
        groups = {
            name: _load_group(run_dir, root, name, body["groups"][name], store) for name in GROUPS
        }
        pair = PairCheckpoint(interval, groups, Tally(**body["tally"]))
        return Restored(pair, SavedRows(**json.loads(gzip.decompress(packed))))
    except (ConfigError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"checkpoint {run_dir.path(root)}: can't be read: {err}") from err


def _load_group(
    run_dir: RunDir, root: str, name: str, described: list[Mapping[str, Any]], store: ObjectStore
) -> GroupCheckpoint:
    headers = tuple(_header(values) for values in described)
    sums = [c for header in headers for c in header.checksums]
    refs = []
    for index, expected in enumerate(sums):
        where = f"{root}/{_part(name, index)}"
        try:
            array = safetensors.numpy.load(run_dir.read_bytes(where))[TENSOR]
        except (SafetensorError, KeyError) as err:
            raise CheckpointError(f"{run_dir.path(where)}: truncated or altered: {err}") from err
        if (got := checksum(array)) != expected:
            raise CheckpointError(
                f"{run_dir.path(where)}: checksum {got:016x} != {expected:016x}; its bytes were "
                "altered"
            )
        refs.append(store.put(array))
    return GroupCheckpoint(name, headers[0].interval, headers, tuple(refs))


def stored_part(run_dir: RunDir, saved: GroupCheckpoint, index: int) -> ByteArray | None:
    """One part of a group's checkpoint as written; None where it was not, or is not whole."""
    try:
        content = run_dir.read_bytes(f"{folder(saved.interval)}/{_part(saved.group, index)}")
        part: ByteArray = safetensors.numpy.load(content)[TENSOR]
        return part
    except (ConfigError, SafetensorError, KeyError):
        return None


def _header(values: Mapping[str, Any]) -> CheckpointHeader:
    lists = ("offsets", "sizes", "checksums")
    layout = tuple((name, dtype, size) for name, dtype, size in values["layout"])
    return CheckpointHeader(
        **{**values, "layout": layout, **{key: tuple(values[key]) for key in lists}}
    )


def _part(name: str, index: int) -> str:
    return f"{name}-{index:03d}.safetensors"


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())
