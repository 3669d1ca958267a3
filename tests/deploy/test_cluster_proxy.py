"""The example for nginx in front of several servers: which one gets a request, and what if it fails."""

import asyncio
import socketserver
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tests.deploy.proxies import NGINX, running_plain_nginx
from tests.http_options import LOCAL
from tests.loopback import on_loopback
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)")
DIGITS = "0b0f6a0c9a0d4c5e8f5b6f8f2f0a1c3d"
TURNS = "/api/v1/chat/turns"


@dataclass
class Upstream:
    """A server that says which one it is, and which session it was told."""

    name: str
    requests: list[str] = field(default_factory=list)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/stream")
        async def stream() -> Response:
            return StreamingResponse(self._pieces(), media_type="text/event-stream")

        @app.get(f"{TURNS}/{{turn_id}}/events")
        async def turn(request: Request, turn_id: str) -> Response:
            self.requests.append(turn_id)
            is_here = turn_id == f"msg_of_{self.name}"
            is_followed = turn_id == "msg_elsewhere" and "x-only-here" not in request.headers
            return Response(self.name, 200 if is_here or is_followed else 404)

        @app.api_route("/{path:path}", methods=["GET", "POST"])
        async def answer(request: Request) -> Response:
            self.requests.append((await request.body()).decode())
            return Response(f"{self.name} {request.headers['x-session-id']}")

        return app

    async def _pieces(self) -> AsyncIterator[str]:
        yield "data: first\n\n"
        await asyncio.to_thread(self.may_go_on.wait, LIMIT_S)
        yield "data: last\n\n"


@dataclass
class Cluster:
    """Three servers behind nginx, and a client."""

    upstreams: dict[str, Upstream]
    http: httpx.Client
    running: dict[str, ExitStack]

    def ask(self, session: str | None = None, path: str = "/api/v1/chat", **headers: str) -> tuple[str, str]:
        """The server that answers a POST, and the session that it got."""
        sent = headers | ({} if session is None else {"X-Session-Id": session})
        name, _, got = self.http.post(path, content="hi", headers=sent).raise_for_status().text.partition(" ")
        return name, got

    def stop(self, name: str) -> None:
        self.running[name].close()

    def session_of(self, name: str) -> str:
        """A session that belongs to the server."""
        drawn = (f"conv_{uuid.uuid4().hex}" for _ in range(200))
        return next(session for session in drawn if self.ask(session)[0] == name)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        upstreams, running, urls = {}, {}, []
        for name in "abc":
            upstreams[name] = Upstream(name)
            running[name] = stack.enter_context(ExitStack())
            urls.append(running[name].enter_context(on_loopback(upstreams[name].app())))
            stack.callback(upstreams[name].may_go_on.set)
        addresses = [url.removeprefix("http://") for url in urls]
        nginx = stack.enter_context(running_plain_nginx("llm_cluster.conf", folder, addresses))
        http = stack.enter_context(httpx.Client(base_url=nginx.url, **LOCAL))
        yield Cluster(upstreams, http, running)


def test_a_conversation_has_one_server_however_it_is_named(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        (server, _) = made.ask(f"conv_{DIGITS}")
        as_uuid = str(uuid.UUID(DIGITS))
        assert made.ask(as_uuid) == (server, as_uuid)
        for path in (
            f"/api/v1/chat/conversation/conv_{DIGITS}/undo",
            f"/v1/conversations/conv_{DIGITS}",
            f"/v1/responses/resp_{DIGITS}{'5e' * 16}",
        ):
            assert made.ask(path=path) == (server, f"conv_{DIGITS}")
            assert made.ask(f"conv_{DIGITS}", path) == (server, f"conv_{DIGITS}")
        assert {made.ask("any text")[0] for _ in range(5)} == {made.ask("any text")[0]}
        assert {made.ask(uuid.uuid4().hex)[0] for _ in range(100)} == set("abc")


def test_a_request_without_a_conversation_gets_a_new_one(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        sessions = [made.ask()[1] for _ in range(10)]
        assert len(set(sessions)) == 10
        server, session = made.ask()
        assert len(session) == len(f"conv_{DIGITS}") and session.startswith("conv_")
        assert made.ask(session) == (server, session)


def test_a_server_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        session, other = made.session_of("a"), made.session_of("b")
        made.stop("a")
        heir = made.ask(session)[0]
        assert heir != "a" and made.ask(session)[0] == heir
        assert made.ask(other)[0] == "b"


class Closing(socketserver.BaseRequestHandler):
    """Reads the beginning of a request and closes the connection, as a server that is killed."""

    def handle(self) -> None:
        self.request.recv(100_000)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/v1/chat", {}, 503),
        ("/api/v1/chat", {"Idempotency-Key": "once"}, 200),
        ("/v1/responses", {"Idempotency-Key": "once"}, 200),
        ("/api/v1/chat/new", {"Idempotency-Key": "once"}, 503),
        ("/v1/chat/completions", {"Idempotency-Key": "once"}, 503),
    ],
)
def test_a_post_that_was_read_is_sent_again_only_if_the_server_answers_its_key_once(
    path: str, headers: dict[str, str], status: int, tmp_path: Path
) -> None:
    other = Upstream("other")
    with ExitStack() as stack:
        dying = stack.enter_context(socketserver.TCPServer(("127.0.0.1", 0), Closing))
        thread = threading.Thread(target=dying.serve_forever)
        thread.start()
        stack.callback(thread.join, LIMIT_S)
        stack.callback(dying.shutdown)
        url = stack.enter_context(on_loopback(other.app()))
        addresses = [f"127.0.0.1:{dying.server_address[1]}", url.removeprefix("http://")]
        nginx = stack.enter_context(running_plain_nginx("llm_cluster.conf", tmp_path, addresses))
        http = stack.enter_context(httpx.Client(base_url=nginx.url, **LOCAL))
        statuses = [http.post(path, content="hi", headers=headers).status_code for _ in range(20)]
        assert statuses.count(status) == (1 if status == 503 else 20)
        assert len(other.requests) == statuses.count(200)


def test_the_server_of_a_turn_is_found(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        for name in "abc":
            assert made.http.get(f"{TURNS}/msg_of_{name}/events").text == name
        unknown = made.http.get(f"{TURNS}/msg_of_none/events")
        assert unknown.status_code == 404 and unknown.text in "abc"


def test_a_turn_that_no_server_runs_is_followed_by_one(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        assert made.http.get(f"{TURNS}/msg_elsewhere/events").text in "abc"
        asked = [len(upstream.requests) for upstream in made.upstreams.values()]
        assert sorted(asked) == [1, 1, 2], "each was asked for a turn of its own first"


def test_a_stream_arrives_piece_by_piece(tmp_path: Path) -> None:
    with cluster(tmp_path) as made, made.http.stream("GET", "/stream") as reply:
        pieces = reply.iter_text()
        assert next(pieces) == "data: first\n\n"
        for upstream in made.upstreams.values():
            upstream.may_go_on.set()
        assert next(pieces) == "data: last\n\n"


def test_without_any_server_there_is_one_clear_error(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        for name in "abc":
            made.stop(name)
        for headers in ({}, {"Idempotency-Key": "once"}):
            reply = made.http.post("/api/v1/chat", content="hi", headers=headers)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
            assert reply.json()["error"]["message"] == "No server answers."
        assert made.http.get("/metrics").status_code == 404
