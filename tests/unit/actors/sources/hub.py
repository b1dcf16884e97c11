"""A hub of one data set, over HTTP on this machine: what huggingface_hub asks of the real one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.unit.actors.sources.web_server import served


def _requests(name: str, revision: str, files: Mapping[str, bytes]) -> type[BaseHTTPRequestHandler]:
    api, commit = f"/api/datasets/{name}", "c" * 40

    def entries(below: str) -> list[dict[str, Any]]:
        folders = {"/".join(f.split("/")[:n]) for f in files for n in range(1, f.count("/") + 1)}
        found = [{"type": "file", "path": f, "oid": "0" * 40, "size": len(files[f])} for f in files]
        found += [{"type": "directory", "path": f, "oid": "0" * 40} for f in sorted(folders)]
        return [e for e in found if str(e["path"]).startswith(below)]

    class Requests(BaseHTTPRequestHandler):
        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, value: Any) -> None:
            self.answer(json.dumps(value).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            if path in (api, f"{api}/revision/{revision}"):
                self.json({"id": name, "sha": commit, "siblings": [], "tags": []})
            elif path.startswith(f"{api}/tree/{revision}"):
                below = path.removeprefix(f"{api}/tree/{revision}").strip("/")
                found = [e for e in entries(below) if e["path"] != below]
                if "recursive=true" not in url.query.lower():
                    start = len(below) + 1 if below else 0
                    found = [e for e in found if "/" not in str(e["path"])[start:]]
                self.json(found)
            elif path.startswith(f"/datasets/{name}/resolve/{revision}/"):
                self.file(files[path.removeprefix(f"/datasets/{name}/resolve/{revision}/")])
            else:
                missing = "EntryNotFound" if "/resolve/" in path else "RepoNotFound"
                self.answer(b"{}", 404, X_Error_Code=missing)

        do_HEAD = do_GET

        def file(self, raw: bytes) -> None:
            given = self.headers.get("Range")
            if not given:
                self.answer(raw, ETag='"x"', X_Repo_Commit=commit)
                return
            first, last = given.removeprefix("bytes=").split("-")
            stop = min(int(last) + 1, len(raw))
            part, place = raw[int(first) : stop], f"bytes {first}-{stop - 1}/{len(raw)}"
            self.answer(part, 206, ETag='"x"', X_Repo_Commit=commit, Content_Range=place)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            wanted = body if not body.startswith("{") else json.loads(body)["paths"]
            if isinstance(wanted, str):
                wanted = [
                    unquote(p.partition("=")[2]) for p in wanted.split("&") if p[:5] == "paths"
                ]
            self.json([e for e in entries("") if e["path"] in wanted])

        def log_message(self, *_: Any) -> None:
            pass

    return Requests


@contextmanager
def hub(name: str, revision: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serves the files of a data set at that revision; gives the address."""
    with served(_requests(name, revision, files)) as address:
        yield address
