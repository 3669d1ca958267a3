"""Owns the stand-in Hub: repositories that are dictionaries, and faults that a test asks for."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

COMMIT = "c" * 40


@dataclass
class StandInHub:
    """`repositories` maps `owner/name` to its files; `faults` maps it to a status and an error code."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)  # files whose connection breaks in mid-body
    slow: set[str] = field(default_factory=set)  # files that trickle, and how many pieces have gone out
    pieces: int = 0
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.add_api_route("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        app.add_api_route(
            "/{owner}/{name}/resolve/{revision}/{path:path}", self._file, methods=["GET", "HEAD"]
        )
        return app

    def _refusal(self, repository: str, request: Request) -> JSONResponse | None:
        self.tokens.append(request.headers.get("authorization"))
        if repository in self.faults:
            status, code = self.faults[repository]
            headers = {"X-Error-Code": code, "X-Error-Message": code}
            return JSONResponse({"error": code}, status, headers=headers)
        if repository not in self.repositories:
            return JSONResponse({"error": "no"}, 404, headers={"X-Error-Code": "RepoNotFound"})
        return None

    def _info(self, owner: str, name: str, revision: str, request: Request) -> Response:
        repository = f"{owner}/{name}"
        files = [{"rfilename": path} for path in self.repositories.get(repository, {})]
        body = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": files}
        return self._refusal(repository, request) or JSONResponse(body)

    def _tree(self, owner: str, name: str, revision: str, request: Request) -> Response:
        files = self.repositories.get(f"{owner}/{name}", {})
        body = [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]
        return self._refusal(f"{owner}/{name}", request) or JSONResponse(body)

    def _file(self, owner: str, name: str, revision: str, path: str, request: Request) -> Response:
        repository = f"{owner}/{name}"
        refusal = self._refusal(repository, request)
        if refusal is not None:
            return refusal
        content = self.repositories[repository].get(path)
        if content is None:
            return JSONResponse({}, 404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        if request.method == "GET" and path in self.dropped | self.slow:
            return StreamingResponse(self._trickle(path, content), headers=headers)
        body = b"" if request.method == "HEAD" else content
        return Response(body, media_type="application/octet-stream", headers=headers)

    async def _trickle(self, path: str, content: bytes) -> AsyncIterator[bytes]:
        size = max(1024, len(content) // 100)
        for start in range(0, len(content), size):
            self.pieces += 1
            yield content[start : start + size]
            await asyncio.sleep(0.02)
            if path in self.dropped and start > 2048:
                raise ConnectionAbortedError("as the test asked")


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running(hub: StandInHub) -> Iterator[StandInHub]:
    """Serves the hub on a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(hub.app(), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join()
