"""Any fsspec URL as a file system that makes folders as they are written to. No torch."""

from __future__ import annotations

from typing import Any

import fsspec


def is_local(url: str) -> bool:
    """Whether a URL or path is on a file system of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def writable(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Only local ones have folders that must be made first; others don't know the option.

    Raises:
        ImportError, ValueError: a protocol that is unknown, or whose package is missing.
    """
    fs, root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if is_local(url) else {}))
    return fs, root
