"""A stand-in for the Hub: its repositories are dictionaries, and it fails as a test asks.

It implements the part of the Hub's protocol that huggingface_hub and this project use. Large files are in LFS
and identified by their SHA-256, small ones by their git id.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from tests.loopback import on_loopback

COMMIT = "c" * 40
LARGE = (".safetensors", ".bin", ".gguf")
_WRONG_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@dataclass
class Refusal:
    """The answer to every request for a repository."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Mishap:
    """A fault in the transfer of a file: cut, flip, stall, trickle, endless, no range or error. It happens
    `times` times."""

    kind: str
    times: int = 1_000_000


@dataclass
class StandInHub:
    """`repositories` maps `owner/name` to its files; `gated` to the tokens that may read them."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: dict[str, set[str]] = field(default_factory=dict)
    known_tokens: set[str] | None = None  # None: any
    refusals: dict[str, Refusal] = field(default_factory=dict)
    mishaps: dict[str, Mishap] = field(default_factory=dict)  # by the name of the file
    lies: dict[str, dict[str, object]] = field(default_factory=dict)  # by file: false entries in the listing
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    other_host: str | None = None  # large files are redirected to this host
    tokens: list[str | None] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    url: str = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/api/models/{owner}/{name}", self._info)
        app.add_api_route("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.add_api_route("/{owner}/{name}/resolve/{revision}/{path:path}", self._file)
        return app

    def _refusal(self, repository: str, request: Request, is_file: bool) -> JSONResponse | None:
        authorization = request.headers.get("authorization")
        token = None if authorization is None else authorization.removeprefix("Bearer ")
        self.tokens.append(token)
        self.requests.append(request.url.path)
        if self.known_tokens is not None and token is not None and token not in self.known_tokens:
            return JSONResponse({}, 401, headers=_WRONG_TOKEN)
        if repository in self.refusals:
            refusal = self.refusals[repository]
            return JSONResponse({}, refusal.status, headers={"X-Error-Code": refusal.code} | refusal.headers)
        if repository not in self.repositories:
            return JSONResponse({}, 401 if token is None else 404, headers={"X-Error-Code": "RepoNotFound"})
        if is_file and repository in self.gated and token not in self.gated[repository]:
            return JSONResponse({}, 401 if token is None else 403, headers={"X-Error-Code": "GatedRepo"})
        return None

    def _info(self, owner: str, name: str, request: Request, revision: str = "main") -> Response:
        repository = f"{owner}/{name}"
        refusal = self._refusal(repository, request, is_file=False)
        if refusal is not None:
            return refusal
        commit = self.revisions.get(revision, revision if revision in self.revisions.values() else None)
        if commit is None:
            return JSONResponse({}, 404, headers={"X-Error-Code": "RevisionNotFound"})
        files = [self._listed(path, content) for path, content in self.repositories[repository].items()]
        return JSONResponse({"id": repository, "modelId": repository, "sha": commit, "siblings": files})

    def _listed(self, path: str, content: bytes) -> dict[str, object]:
        listed: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            listed["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        return listed | self.lies.get(path, {})

    def _file(self, owner: str, name: str, revision: str, path: str, request: Request) -> Response:
        repository = f"{owner}/{name}"
        refusal = self._refusal(repository, request, is_file=True)
        if refusal is not None:
            return refusal
        content = self.repositories[repository].get(path)
        if content is None:
            return JSONResponse({}, 404, headers={"X-Error-Code": "EntryNotFound"})
        if self.other_host is not None and path.endswith(LARGE):
            return RedirectResponse(self.other_host + request.url.path, 302)
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        return self._body(path, content, start)

    def _body(self, path: str, content: bytes, start: int) -> Response:
        mishap = self._mishap(path)
        if mishap == "error":
            return Response(status_code=500)
        if mishap == "no range":
            start = 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        if mishap == "flip":
            rest = rest[:-1] + bytes([rest[-1] ^ 1])
        if mishap != "endless":
            headers["Content-Length"] = str(len(rest))
        status = 200 if mishap == "no range" else 206
        return StreamingResponse(self._pieces(rest, mishap), status, headers=headers)

    def _mishap(self, path: str) -> str | None:
        mishap = self.mishaps.get(path)
        if mishap is None or mishap.times == 0:
            return None
        mishap.times -= 1
        return mishap.kind

    async def _pieces(self, content: bytes, mishap: str | None) -> AsyncIterator[bytes]:
        size = max(1024, len(content) // 50)
        for start in range(0, len(content), size):
            if mishap in ("cut", "stall") and start > len(content) // 2:
                if mishap == "cut":
                    raise ConnectionAbortedError("as the test asked")
                await asyncio.Event().wait()  # until the client gives up
            if mishap == "trickle":
                await asyncio.sleep(0.02)
            self.bytes_sent += len(content[start : start + size])
            yield content[start : start + size]
        while mishap == "endless":
            yield b"more" * 256
            await asyncio.sleep(0)


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running(hub: StandInHub) -> Iterator[StandInHub]:
    """Serves the hub on a free port of loopback."""
    with on_loopback(hub.app()) as hub.url:
        yield hub
