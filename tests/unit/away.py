"""A file system of fsspec that can be made to fail, as remote storage does: `away://…`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

GUARDED = (
    *("info", "ls", "exists", "isdir", "isfile", "find", "glob", "cat_file", "pipe_file", "_open"),
    *("mv", "rm", "put_file", "get_file", "makedirs", "mkdir"),
)


class AwayFileSystem(MemoryFileSystem):
    """Holds files in memory; while `trouble` is set, every call raises it.

    Attributes:
        trouble: what is raised.
        spared: paths that end so can still be reached.
        num_refused: calls that raised.
    """

    protocol = "away"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    trouble: ClassVar[Exception | None] = None
    spared: ClassVar[tuple[str, ...]] = ()
    num_refused: ClassVar[int] = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return super()._strip_protocol(str(path).replace("away://", "memory://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"away://{self._strip_protocol(name).lstrip('/')}"

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in GUARDED:
            return found

        def guarded(*args: Any, **options: Any) -> Any:
            kind = type(self)
            if kind.trouble is not None and not (
                args and isinstance(args[0], str) and args[0].endswith(kind.spared or ("\0",))
            ):
                kind.num_refused += 1
                raise kind.trouble
            return found(*args, **options)

        return guarded


fsspec.register_implementation("away", AwayFileSystem, clobber=True)


@contextmanager
def away(trouble: Exception, *spared: str) -> Iterator[type[AwayFileSystem]]:
    """The storage raises `trouble` meanwhile, but for paths that end as those that are spared."""
    AwayFileSystem.trouble, AwayFileSystem.spared = trouble, spared
    AwayFileSystem.num_refused = 0
    try:
        yield AwayFileSystem
    finally:
        AwayFileSystem.trouble, AwayFileSystem.spared = None, ()
