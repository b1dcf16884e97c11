"""As much of the Hugging Face hub as pushing and fetching a model needs, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from huggingface_hub import constants

TOKEN = "hf_of_this_test"


class FakeHub:
    """Models by name, each with its files; every file travels inside the commit."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, str]] = []  # name, message
        self.visible: dict[str, str | None] = {}
        self.app = FastAPI()
        self._add_routes()

    def sha(self, name: str) -> str:
        return hashlib.sha1(f"{name} {len(self.commits)}".encode()).hexdigest()

    def point_to(self, url: str, cache: Path, patch: pytest.MonkeyPatch) -> None:
        """Has huggingface_hub of this process talk to this hub, with a cache of its own."""
        patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_XET_CACHE", str(cache / "xet"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))

    def _add_routes(self) -> None:
        app = self.app

        def missing(name: str) -> JSONResponse:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": f"no model {name}"}
            return JSONResponse({"error": f"no model {name}"}, 404, headers)

        @app.post("/api/repos/create")
        async def create(request: Request) -> Any:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return JSONResponse({"error": "Invalid user token"}, 401)
            body = await request.json()
            name = f"{body['organization']}/{body['name']}"
            self.visible.setdefault(name, body.get("visibility"))
            if name in self.files:
                return JSONResponse({"error": "exists", "url": self._url(request, name)}, 409)
            self.files[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            return {"url": self._url(request, name), "name": name}

        @app.post("/api/validate-yaml")
        async def validate(request: Request) -> Any:
            front = yaml.safe_load((await request.json())["content"].split("---")[1])
            wrong = [] if isinstance(front, dict) else [{"message": "no mapping"}]
            return {"errors": wrong, "warnings": []}

        @app.post("/api/models/{owner}/{model}/preupload/{revision}")
        async def preupload(owner: str, model: str, request: Request) -> Any:
            files = (await request.json())["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": file["path"], **plain} for file in files]}

        @app.post("/api/models/{owner}/{model}/commit/{revision}")
        async def commit(owner: str, model: str, request: Request) -> Any:
            name = f"{owner}/{model}"
            for line in (await request.body()).splitlines():
                one = json.loads(line)
                value = one["value"]
                if one["key"] == "header":
                    self.commits.append((name, value["summary"]))
                elif one["key"] == "file":
                    self.files[name][value["path"]] = base64.b64decode(value["content"])
                elif one["key"] == "deletedFile":
                    del self.files[name][value["path"]]
            oid = self.sha(name)
            return {"commitUrl": f"{self._url(request, name)}/commit/{oid}", "commitOid": oid}

        @app.get("/api/models/{owner}/{model}/tree/{revision}")
        async def tree(owner: str, model: str) -> Any:
            files = self.files[f"{owner}/{model}"]
            return [
                {"type": "file", "path": path, "size": len(data), "oid": _digest(data)}
                for path, data in files.items()
            ]

        @app.get("/api/models/{owner}/{model}")
        @app.get("/api/models/{owner}/{model}/revision/{revision}")
        async def info(owner: str, model: str) -> Any:
            name = f"{owner}/{model}"
            if name not in self.files:
                return missing(name)
            listed = [{"rfilename": path} for path in self.files[name]]
            return {"id": name, "modelId": name, "sha": self.sha(name), "siblings": listed}

        @app.head("/{owner}/{model}/resolve/{revision}/{path:path}")
        @app.get("/{owner}/{model}/resolve/{revision}/{path:path}")
        async def resolve(owner: str, model: str, path: str) -> Any:
            name = f"{owner}/{model}"
            if name not in self.files:
                return missing(name)
            data = self.files[name].get(path)
            if data is None:
                headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.sha(name)}
                return JSONResponse({"error": "no such file"}, 404, headers)
            headers = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": self.sha(name)}
            return Response(data, headers=headers, media_type="application/octet-stream")

    def _url(self, request: Request, name: str) -> str:
        return f"{str(request.base_url).rstrip('/')}/{name}"


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
