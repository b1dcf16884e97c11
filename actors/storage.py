"""Any fsspec URL as a file system, operations by exact names, and outages as errors of their own.

No torch. A name without a scheme is a path of this machine, whatever characters it has: fsspec
alone would take `a::b` for a chain of file systems and `data:b` for a document.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from actors.formats import first_line
from actors.wire import StorageError, TandemError

MAGIC = "*?["  # characters that make a name a pattern to fsspec
WEB_MAGIC = "*["  # of those, to a web server: what follows a question mark there is a query

# Errors that a retry does not change, by type, errno and, for clients of remote storage, name.
LASTING = (
    *(FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError),
    *(ValueError, ImportError, TandemError),
)
LASTING_NUMBERS = frozenset(
    {errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENOSYS, errno.EXDEV}
)
LASTING_NAMES = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "ParamValidationError"),
        *("ProfileNotFound", "NoRegionError", "DefaultCredentialsError", "RefreshError"),
        *("ClientAuthenticationError", "ResourceNotFoundError", "ResourceExistsError"),
        *("RepositoryNotFoundError", "EntryNotFoundError", "GatedRepoError"),
    }
)
# Packages whose errors come from access to storage, not from the content of a file.
CLIENTS = frozenset(
    {
        *("adlfs", "aiobotocore", "aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs"),
        *("google", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "s3fs"),
        "urllib3",
    }
)
REFUSED, TOO_MANY, SERVERS = 400, (408, 429), 500  # HTTP status
NOT_THERE = (404, 410)
AGAIN = "the storage is unreachable, full or broken; repair it, then run the same command again"


def is_local(url: str) -> bool:
    """Whether a URL or path is on a file system of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def locate(url: str, **options: Any) -> tuple[Any, str]:
    """The file system of a URL or path, and the path in it; local paths are made absolute.

    Raises:
        ImportError, ValueError: the protocol is unknown, or its package is missing.
    """
    if not is_local(url):
        fs, root = fsspec.core.url_to_fs(url, **options)
        return fs, str(root)
    path = url.partition("://")[2] if "://" in url else url
    return LocalFileSystem(**options), os.path.abspath(os.path.expanduser(path))


def writable(url: str) -> tuple[Any, str]:
    """As `locate`, for writing: a local file system creates missing folders.

    Only local ones need it; others don't have the option.

    Raises:
        ImportError, ValueError: the protocol is unknown, or its package is missing.
    """
    return locate(url, **({"auto_mkdir": True} if is_local(url) else {}))


def is_web(fs: Any) -> bool:
    """Whether a file system is a web server, which has no folders and no names but whole URLs."""
    return "http" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))


def answered(err: Exception) -> Exception:
    """What a web server answered, or why it did not.

    fsspec says that a file does not exist whatever the reason is, and keeps the reason as the
    cause.
    """
    cause = err.__cause__
    if not isinstance(err, FileNotFoundError) or not isinstance(cause, Exception):
        return err
    is_answer = type(cause).__module__.startswith("aiohttp") or isinstance(cause, TimeoutError)
    if not is_answer or _http_status(cause) in NOT_THERE:
        return err
    if not is_lasting(cause):
        return cause
    return PermissionError(f"the server refuses it: {first_line(cause, with_type=True)}")


def name_of(path: str) -> str:
    """The last part of a path or URL; of a web server's without the query, such as a signature."""
    if path.startswith(("http://", "https://")):
        path = urlsplit(path).path
    return posixpath.basename(path)


def info_of(fs: Any, key: str) -> dict[str, Any] | None:
    """What the file system says of a file or folder; None: there is none."""
    try:
        return dict(fs.info(key))
    except FileNotFoundError as err:
        if answered(err) is not err:  # of a server that refuses or is away
            raise
        return None


def matching(fs: Any, root: str, fixed: str, pattern: str) -> dict[str, Any]:
    """Info by key of what a pattern matches below a folder."""
    if not any(c in fixed for c in MAGIC):
        try:
            return dict(fs.glob(root, detail=True))
        except FileNotFoundError:  # huggingface_hub raises it where fsspec's own finds nothing
            return {}
    matches = re.compile(
        glob_translate(pattern)
    ).match  # fs.glob would read the brackets of the folder as a pattern
    depth = None if "**" in pattern else pattern.count("/") + 1
    infos = fs.find(fixed, maxdepth=depth, withdirs=True, detail=True)
    return {k: i for k, i in infos.items() if matches(str(k)[len(fixed) :].strip("/"))}


def no_file(path: str | os.PathLike[str]) -> str | None:
    """For something of this machine that is neither a file nor a folder, what it is and what to
    give instead. None: it is one, or does not exist. Opening a pipe waits for a writer, for ever
    where there is none, and what came out of it can't be read again.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    return (
        f"is a {kind}, expected a file, which can be read again and by several processes; write "
        "its content to a file and give that"
    )


def move_file(fs: Any, source: str, target: str) -> None:
    """Moves one file. fsspec's own `mv` would read brackets in its name as a pattern."""
    if isinstance(fs, LocalFileSystem) or not _is_magic(source + target):
        fs.mv(source, target)
        return
    fs.cp_file(source, target)
    fs.rm_file(source)


def put_file(fs: Any, path: str, content: bytes) -> None:
    """Writes a file whole: beside, and then moved."""
    try:
        fs.pipe_file(f"{path}.part", content)
        move_file(fs, f"{path}.part", path)
    except BaseException:
        with suppress(Exception):
            remove(fs, f"{path}.part")
        raise


def remove(fs: Any, path: str) -> None:
    """Removes a file or folder with its content; by its exact name, as `move_file`.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if isinstance(fs, LocalFileSystem) or not _is_magic(path):
        fs.rm(path, recursive=True)
        return
    files = fs.find(path)
    if not files:
        raise FileNotFoundError(path)
    for file in files:
        fs.rm_file(file)


def _is_magic(name: str) -> bool:
    return any(c in name for c in MAGIC)


def is_lasting(err: BaseException) -> bool:
    """Whether an error of a file system means that the request is wrong, so that a retry would fail
    in the same way.
    """
    names = {kind.__name__ for kind in type(err).__mro__}
    if isinstance(err, LASTING) or names & LASTING_NAMES:
        return True
    if isinstance(err, OSError) and err.errno in LASTING_NUMBERS:
        return True
    status = _http_status(err)
    return status is not None and REFUSED <= status < SERVERS and status not in TOO_MANY


def is_outage(err: BaseException) -> bool:
    """Whether an error means that storage is unreachable, full or broken, rather than that the
    request or the content of a file is wrong.
    """
    if isinstance(err, StorageError):
        return True
    if is_lasting(err):
        return False
    if isinstance(err, ConnectionError | TimeoutError):
        return True
    if (
        isinstance(err, OSError) and err.errno is not None
    ):  # errors of damaged archives have no errno
        return True
    return any(kind.__module__.partition(".")[0] in CLIENTS for kind in type(err).__mro__)


def _http_status(err: BaseException) -> int | None:
    """HTTP status of the server's answer, wherever the client keeps it."""
    response = getattr(err, "response", None)
    if isinstance(response, dict):  # of boto
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        holders = (response, err) if response is not None else (err,)
        names = ("status_code", "status", "code")
        found = next((v for h in holders for n in names if (v := getattr(h, n, None))), None)
    try:
        return int(found) if found is not None else None
    except (TypeError, ValueError):
        return None


@contextmanager
def storage_errors(place: str, doing: str) -> Iterator[None]:
    """Turns an outage of storage inside the block into a StorageError; other errors pass.

    Args:
        place: what was read or written.
        doing: what could not be done, e.g. "can't be read".
    """
    try:
        yield
    except TandemError:
        raise
    except Exception as raised:  # clients of remote storage have errors of their own
        err = answered(raised)
        if is_outage(err):
            raise StorageError(
                f"{place}: {doing}: {first_line(err, with_type=True)}; {AGAIN}"
            ) from err
        if err is not raised:
            raise err from raised
        raise
