"""The local files that a config names, sent to a cluster.

A corpus, its wordings, a model or an earlier run on this machine travel in the job's package and
are copied, once, to the run's storage at STORAGE/.inputs/DIGEST/, where every node, a resumed run
and an evaluation find them. The config that is sent names them there. URLs, names on the hub and
paths that exist only on the cluster stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.settings.fields import PathTo
from actors.sources.local_files import (
    files_below,
    files_matching,
    refuse_unreadable,
    split_pattern,
)
from actors.sources.paths import list_files
from actors.tokenizers.pretrained_tokenizer import TOKENIZER_FILE, usage_files
from actors.wire import ConfigError
from jobs.submit.package import JOB_FOLDER, PackageFile, check_size
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.config_paths import change_path, path_settings
from orchestrator.settings.file_names import EXPORT, EXPORT_MARKER

INPUTS = "inputs"  # in the package
PLACED = ".inputs"  # in the storage; no run's name begins with a dot
DIGEST_CHARS = 16
CHUNK = 1 << 20


@dataclass(frozen=True)
class Shipment:
    """A config for the cluster, and the files that travel with it.

    Attributes:
        config: with paths that the nodes have.
        entries: the files that travel.
        expected: paths and URLs that the cluster must have already.
    """

    config: Config
    entries: tuple[PackageFile, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class _Input:
    """Files behind one path of the config.

    Attributes:
        files: by relative name.
        rest: the path relative to the folder of the copies.
    """

    files: dict[str, Path]
    rest: str


@dataclass
class _Shipper:
    storage: str
    on_cluster: Sequence[str]
    limit_mib: float
    entries: dict[str, PackageFile] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # files of the corpus

    def moved(self, path_to: PathTo) -> Callable[[object], object]:
        """A function from a field's value to the one that is sent."""

        def move(value: object) -> object:
            if not isinstance(value, str):
                return value
            if "://" in value or not os.path.isabs(value) or self._is_on_cluster(value):
                found = None
            else:
                found = _find(value, tokenizer=path_to is PathTo.TOKENIZER)
            if found is None:
                if "://" in value or os.path.isabs(value):
                    self.expected.append(value)
                return value  # also a name of the hub
            if path_to is PathTo.TOKENIZER and "://" in self.storage:
                raise ConfigError(
                    f"tokenizer.pretrained {value} is on this machine, and a tokenizer can't be "
                    f"loaded from {self.storage}; give a hub name, or a path that the "
                    "cluster's nodes have (--on-cluster PATH)"
                )
            if path_to is PathTo.CORPUS:
                self.texts += map(str, found.files.values())
            return self._ship(found)

        return move

    def _is_on_cluster(self, path: str) -> bool:
        return any(Path(path).is_relative_to(Path(p).absolute()) for p in self.on_cluster)

    def _ship(self, found: _Input) -> str:
        sizes = [PackageFile(n, p.stat().st_size, p) for n, p in sorted(found.files.items())]
        check_size([*self.entries.values(), *sizes], self.limit_mib)  # before they are read
        digest = _digest(found.files)
        for entry in sizes:
            name = f"{JOB_FOLDER}/{INPUTS}/{digest}/{entry.name}"
            self.entries[name] = PackageFile(name, entry.size, entry.source)
        return f"{self.storage.rstrip('/')}/{PLACED}/{digest}/{found.rest}".rstrip("/")


def ship(config: Config, on_cluster: Sequence[str], limit_mib: float) -> Shipment:
    """The config for the cluster, with the local files that it names.

    Args:
        config: as it was loaded here.
        on_cluster: local paths below these mean the cluster's own and are not sent.
        limit_mib: size above which nothing is read or sent.

    Raises:
        ConfigError: a storage that only this machine has; files above the limit; a tokenizer that
            could not be loaded from the storage; a link to nothing; one text under two names.
    """
    check_storage(config.storage)
    values = config.model_dump(mode="json", by_alias=True)
    values["ray"] = {}  # the cluster it is sent to, never an address from here
    shipper = _Shipper(config.storage, on_cluster, limit_mib)
    for key, path_to in path_settings().items():
        if path_to is not PathTo.SPOOL:  # a folder of each node's own
            change_path(values, key, shipper.moved(path_to))
    if config.corpus.kind == "text":  # there, two names of one file are two files
        list_files(shipper.texts, chosen="text")
    return Shipment(
        make_config(values), tuple(shipper.entries.values()), tuple(dict.fromkeys(shipper.expected))
    )


def check_storage(storage: str) -> None:
    """Raises: ConfigError: the storage is relative, in the job's folder, which is temporary."""
    if "://" not in storage and not os.path.isabs(storage):
        raise ConfigError(
            f"storage {storage}: a job's own folder is removed when the job ends; give a place "
            "that every node reads and writes, e.g. storage=s3://bucket/runs, or an absolute path "
            "on a shared file system, e.g. storage=/mnt/shared/runs"
        )


def _find(path: str, tokenizer: bool) -> _Input | None:
    """The files behind a local path, glob or folder; None: this machine has none."""
    fixed, pattern = split_pattern(path)
    place = Path(fixed)
    if pattern is not None:
        files = files_matching(fixed, pattern) if place.is_dir() else []
        return _Input({f.name: Path(f.path) for f in files}, pattern) if files else None
    refuse_unreadable(fixed)
    if place.is_file():
        beside = usage_files(place.parent) if tokenizer else {}
        return _Input({place.name: place, **beside}, place.name)
    if not place.is_dir():
        return None
    if tokenizer:
        main = place / TOKENIZER_FILE
        return _Input({p.name: p for p in [main] if p.is_file()} | usage_files(place), "")
    if (place / EXPORT / EXPORT_MARKER).is_file():
        place /= EXPORT  # of a run only the export, not the checkpoints
    inside = files_below(str(place), lambda name: posixpath.basename(name)[0] == ".")
    return _Input({f.name: Path(f.path) for f in inside}, "") if inside else None


def _digest(files: dict[str, Path]) -> str:
    """Digest of names and contents, so that the same files are copied once."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = hashlib.sha256()
        with path.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                content.update(chunk)
        total.update(f"{name}\0{content.hexdigest()}\0".encode())
    return total.hexdigest()[:DIGEST_CHARS]
