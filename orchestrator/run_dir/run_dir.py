"""The run's directory: every file that a run leaves behind is written through here. Knows paths and
bytes, no meaning.

Any fsspec URL. Files are replaced whole: written beside and moved, so that a reader never sees half
a file.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.storage import AGAIN, is_lasting, is_local, put_file, remove, writable
from actors.wire import ConfigError, StorageError
from orchestrator.errors import RunExistsError
from orchestrator.run_dir.run_status import is_finished
from orchestrator.settings.file_names import (
    CONFIG,
    EXPORT,
    EXPORT_MARKER,
    SUMMARY,
    resume_command,
)

GIVE_RUN = "give a run directory, e.g. runs/quickstart, or its export folder"
RETRY_S = 1.0  # between two tries to reach storage that is away
HANGS_S = 300.0  # without one finished write: storage that neither answers nor raises


class RunDir:
    """One run's files.

    Args:
        url: the run's directory.
        patience_s: how long remote storage that is away is tried again, whatever is asked of it.
        warn: called once each time that it is away.

    Attributes:
        num_writes: files written so far; moves as long as the storage answers.
    """

    def __init__(
        self,
        url: str,
        patience_s: float = 0.0,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.url = url.rstrip("/")
        never_away = is_local(url) or url.startswith("memory://")
        self._patience_s, self._warn = 0.0 if never_away else patience_s, warn
        self.num_writes = 0
        try:
            self._fs, self._root = writable(self.url)
        except (ImportError, ValueError) as err:
            raise ConfigError(f"storage {url}: {err}") from err

    @property
    def patience_s(self) -> float:
        """How long to wait for one write before the storage is taken to hang."""
        return self._patience_s + HANGS_S

    @property
    def can_append(self) -> bool:
        """Whether files can grow; to add to an object of a remote store is to write it again."""
        return is_local(self.url)

    def path(self, name: str) -> str:
        """URL of one of the run's files."""
        return f"{self.url}/{name}"

    def file_system(self, name: str) -> tuple[Any, str]:
        """The fsspec file system, and the path of one of the run's files in it."""
        return self._fs, f"{self._root}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether the file, or the directory itself, is there now.

        Raises: ConfigError where the place can't be looked at, StorageError where it is away.
        """
        self._fs.invalidate_cache()  # another process may have written it since it was listed
        there = f"{self._root}/{name}" if name else self._root
        with _explained(self.path(name) if name else self.url, "can't be read"):
            return bool(self._patiently(name, lambda: self._fs.exists(there)))

    def _patiently(
        self, name: str, action: Callable[[], Any], patience_s: float | None = None
    ) -> Any:
        """What the action returns, tried again while the storage is away.

        Args:
            name: of the file, for people.
            action: what is tried.
            patience_s: for how long; None: as long as remote storage is tried.

        Raises: what the action raised, if that lasts or the storage is away for too long.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        deadline, has_warned = time.monotonic() + patience_s, False
        while True:
            try:
                return action()
            except Exception as err:  # clients of remote storage have errors of their own
                if is_lasting(err) or time.monotonic() + RETRY_S > deadline:
                    raise
                if not has_warned:
                    self._warn(
                        f"{self.path(name)}: the storage does not answer ({err}); it is tried "
                        f"again for {patience_s:g} s (deadlines.storage_s)"
                    )
                has_warned = True
                time.sleep(RETRY_S)

    def refuse_existing(self, name: str = "") -> None:
        """Raises: RunExistsError if there is a run already.

        ConfigError, StorageError: as `exists`; ConfigError as `refuse_unwritable`.

        Args:
            name: the file that makes the directory a run's; by default the directory itself.
        """
        if self.exists(name):
            what = "remove it if it is not needed"
            if self.exists(CONFIG) and not self.has_finished():
                what = f"go on with it where it was interrupted: {resume_command(self.url)}"
            raise RunExistsError(
                f"run directory {self.url} exists already; choose another name=…, or {what}"
            )
        self.refuse_unwritable()

    def has_finished(self) -> bool:
        """Whether a run reached its end here."""
        summary = json.loads(self.read(SUMMARY)) if self.exists(SUMMARY) else {}
        return is_finished(summary.get("status"))

    def refuse_unwritable(self) -> None:
        """Raises: ConfigError where a local directory can't be made or written here: what is to be
        kept is written after hours.
        """
        if not is_local(self.url):
            return
        place = Path(self._root).absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        what = "no folder" if not place.is_dir() else None
        if what is None and not os.access(place, os.W_OK | os.X_OK):
            what = "a folder that can't be written"
        if what is not None:
            raise ConfigError(
                f"{self.url}: can't be made, {place} is {what}; choose another storage=… (--out)"
            )

    def write(self, name: str, content: bytes | str, patience_s: float | None = None) -> None:
        """Writes a file whole; on local storage too it is tried for `patience_s`, where given.

        Raises: ConfigError where the storage can't be written, StorageError where it is away or
        full.
        """
        data = content.encode() if isinstance(content, str) else content
        target = f"{self._root}/{name}"
        with _explained(self.path(name), "can't be written", lambda: "choose another storage=…"):
            self._patiently(name, lambda: self._replace(target, data), patience_s)
        self.num_writes += 1

    def append(self, name: str, content: str) -> None:
        """Adds to the end of a file, where `can_append`; a write that fails may leave half a line.

        Raises: as `write`.
        """
        with (
            _explained(self.path(name), "can't be written"),
            self._fs.open(f"{self._root}/{name}", "ab") as file,
        ):
            file.write(content.encode())
        self.num_writes += 1

    def _replace(self, target: str, data: bytes) -> None:
        put_file(self._fs, target, data)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read(self, name: str) -> str:
        """A text file. Raises: ConfigError where it can't be read, StorageError as `write`."""
        with _explained(self.path(name), "can't be read", self._whether_a_run):
            try:
                raw = self._patiently(name, lambda: self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError as err:
                raise FileNotFoundError("no such file") from err
            return str(raw.decode())

    def _whether_a_run(self) -> str:
        return self.near() or f"is {self.url} the directory of a run?"

    def near(self) -> str:
        """`did you mean …?` where there is no such directory but one of a similar name, else
        nothing.
        """
        parent, _, name = self._root.rpartition("/")
        there: list[str] = []
        with suppress(Exception):  # a place that can't be listed has no hint
            if not self._fs.exists(self._root):
                there = [str(path).rstrip("/") for path in self._fs.ls(parent, detail=False)]
        names = [path.rpartition("/")[2] for path in there]
        close = difflib.get_close_matches(name, names, 1)
        return f"did you mean {self.url.removesuffix(name)}{close[0]}?" if close else ""

    def no_run(self) -> str:
        """What to say where a run was expected and its config is missing."""
        listed = "runs under a folder are listed by: tandem status --storage FOLDER"
        return f"no run ({CONFIG} is missing); {self.near() or listed}"

    def read_bytes(self, name: str) -> bytes:
        """A file's bytes. Raises: as `read`."""
        with _explained(self.path(name), "can't be read"):
            return bytes(self._patiently(name, lambda: self._fs.cat_file(f"{self._root}/{name}")))

    def list_folders(self, name: str = "") -> list[str]:
        """Names of the folders in one of the run's folders; empty where that is missing."""
        return sorted(entry for entry, size in self._list(name).items() if size is None)

    def list_files(self, name: str) -> dict[str, int]:
        """Files in one of the run's folders, with their bytes; empty where that is missing."""
        return {entry: size for entry, size in self._list(name).items() if size is not None}

    def _list(self, name: str) -> dict[str, int | None]:
        self._fs.invalidate_cache()
        where = f"{self._root}/{name}".rstrip("/")
        with _explained(self.path(name), "can't be listed"):
            try:
                found = self._patiently(name, lambda: self._fs.ls(where, detail=True))
            except FileNotFoundError:
                return {}
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: None
            if entry["type"] == "directory"
            or (entry.get("islink") and self._fs.isdir(entry["name"]))
            else int(entry["size"] or 0)
            for entry in found
        }

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; a missing one is no error."""
        with _explained(self.path(name), "can't be removed"), suppress(FileNotFoundError):
            self._patiently(name, lambda: remove(self._fs, f"{self._root}/{name}"))

    def upload(self, local: str, name: str) -> None:
        """Copies a local file into the run. Raises: as `write`."""
        with _explained(self.path(name), "can't be written"):
            self._patiently(name, lambda: self._fs.put_file(local, f"{self._root}/{name}"))
        self.num_writes += 1


@contextmanager
def _explained(place: str, doing: str, if_wrong: Callable[[], str] = str) -> Iterator[None]:
    """Turns what a file system raises into one of our errors.

    Args:
        place: what is read or written.
        doing: what could not be done.
        if_wrong: says what to do where what was asked for is wrong, and storage is not away.

    Raises: ConfigError, or StorageError where the storage is away.
    """
    try:
        yield
    except Exception as err:  # clients of remote storage have errors of their own
        if is_lasting(err):
            then = if_wrong()
            raise ConfigError(f"{place}: {doing}: {err}{f'; {then}' if then else ''}") from err
        raise StorageError(f"{place}: {doing}: {err}; {AGAIN}") from err


def find_export(url: str | os.PathLike[str]) -> str:
    """The finished export of a run, or the export itself where `url` is one.

    Raises:
        ConfigError: no run there, a run without a finished export (the message says in what state
            it is), or a place that can't be read.
        StorageError: its storage is away.
    """
    place = RunDir(os.fspath(url))
    if place.exists(EXPORT_MARKER):
        return place.url
    if place.exists(f"{EXPORT}/{EXPORT_MARKER}"):
        return place.path(EXPORT)
    is_run, has_ended = place.exists(CONFIG), place.exists(SUMMARY)
    if not is_run:
        raise ConfigError(
            f"{place.url}: neither a run ({CONFIG} is missing) nor an export ({EXPORT_MARKER} is "
            f"missing); {place.near() or GIVE_RUN}"
        )
    state = f"it has not ended yet: tandem status {shlex.quote(place.url)}"
    if has_ended:
        summary = json.loads(place.read(SUMMARY))
        state = f"it ended as {summary['status']}: {summary.get('cause', 'no cause given')}"
    raise ConfigError(
        f"{place.url}: the run has no finished export ({EXPORT}/{EXPORT_MARKER} is missing); "
        f"{state}. Exports are written when a run ends"
    )
