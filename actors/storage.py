"""Any fsspec URL as a file system that makes folders as they are written to. No torch."""

from __future__ import annotations

from typing import Any

import fsspec


def writable(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Only local ones have folders that must be made first; others don't know the option.

    Raises:
        ImportError, ValueError: a protocol that is unknown, or whose package is missing.
    """
    protocol, _, _ = url.partition("://")
    local = "://" not in url or protocol in ("file", "local")
    fs, root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if local else {}))
    return fs, root
