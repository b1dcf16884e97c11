"""The package that a job carries to the cluster: the code, and the job's files beside it.

One zip file; of this machine it contains only names below the folder, and the same bytes for the
same files, so that Ray uploads it once.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.sources.local_files import files_below
from actors.wire import ConfigError

MIB = 1 << 20
PACKAGES = ("actors", "orchestrator", "jobs")
JOB_FOLDER = "tandem_job"  # beside the code: config, inputs, environment
# Never part of a program, at any depth.
LEFT_OUT = frozenset({
    ".env", ".git", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache",
    ".tox", ".venv", "__pycache__", "node_modules", "venv",
})  # fmt: skip
LEFT_OUT_ENDS = (".egg-info", ".pyc", ".pyo")
EDITOR_LOCK = ".#"  # prefix of an editor's lock, a link to nothing
# At the top only: deeper down, folders of these names belong to packages.
LEFT_OUT_AT_TOP = frozenset({"build", "data", "dist", "mlruns", "runs", "wandb"})
NUM_NAMED = 5  # of the largest files, in a message
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip file


@dataclass(frozen=True)
class PackageFile:
    """One file of a package.

    Attributes:
        name: in the package, with slashes.
        size: bytes.
        source: path of the file on this machine, or the content.
    """

    name: str
    size: int
    source: Path | bytes

    def open(self) -> io.BufferedIOBase | io.BufferedReader:
        """A handle on its bytes."""
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return self.source.open("rb")


def text_entry(name: str, content: str) -> PackageFile:
    """A file of the job's folder with that content."""
    data = content.encode()
    return PackageFile(f"{JOB_FOLDER}/{name}", len(data), data)


def code_entries(working_dir: str | None) -> list[PackageFile]:
    """The code: a folder, or the packages as installed here; both if the folder lacks them.

    Raises:
        ConfigError: no such folder; a folder with only some of the packages, or with a link to
            nothing.
    """
    if working_dir is None:
        return [*_installed()]
    root = Path(working_dir).expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder")
    missing = [name for name in PACKAGES if not (root / name / "__init__.py").is_file()]
    if 0 < len(missing) < len(PACKAGES):
        raise ConfigError(
            f"--working-dir {working_dir}: has no package {', '.join(missing)}; expected all of "
            f"{', '.join(PACKAGES)} (a checkout) or none of them (they are added)"
        )
    entries = [*_walk(root, "", LEFT_OUT_AT_TOP)]
    return [*entries, *_installed()] if missing else entries


def _installed() -> Iterator[PackageFile]:
    here = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        yield from _walk(here / name, f"{name}/", frozenset())


def _walk(root: Path, prefix: str, at_top: frozenset[str]) -> Iterator[PackageFile]:
    def left_out(name: str) -> bool:
        last = posixpath.basename(name)
        return (
            last in LEFT_OUT
            or last.endswith(LEFT_OUT_ENDS)
            or last.startswith(EDITOR_LOCK)
            or (name in at_top and (root / name).is_dir())
        )

    for file in files_below(str(root), left_out):
        yield PackageFile(f"{prefix}{file.name}", file.size, Path(file.path))


def check_size(entries: Iterable[PackageFile], limit_mib: float) -> int:
    """Bytes of all entries.

    Raises:
        ConfigError: above the limit; names the largest files.
    """
    entries = list(entries)
    total = sum(entry.size for entry in entries)
    if total <= limit_mib * MIB:
        return total
    sizes: dict[str, int] = {}
    for entry in entries:
        path = str(entry.source) if isinstance(entry.source, Path) else entry.name
        sizes[path] = sizes.get(path, 0) + entry.size
    biggest = sorted(sizes.items(), key=lambda item: -item[1])[:NUM_NAMED]
    lines = "".join(f"\n  {size / MIB:10,.1f} MiB  {path}" for path, size in biggest)
    raise ConfigError(
        f"the job's package would have {total / MIB:,.1f} MiB, more than the {limit_mib:g} MiB of "
        f"--max-package-mib; the largest files:{lines}\nput corpora and models on storage that the "
        "cluster reads (an URL such as s3://…, or a path there: --on-cluster PATH), or remove "
        "from the folder what is not part of the program"
    )


def pack(entries: Sequence[PackageFile]) -> bytes:
    """A zip file of the entries, the same bytes for the same content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in sorted(entries, key=lambda e: e.name):
            info = zipfile.ZipInfo(entry.name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            with entry.open() as source:
                archive.writestr(info, source.read())
    return buffer.getvalue()
