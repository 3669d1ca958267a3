"""Turns that outlive their connection, with the built-in model and a real server."""

import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http_options import LOCAL
from tests.server import ROOT, RunningServer, events, running_server
from tests.waiting import LIMIT_S, wait_for

LONG = "Tell me a story about a fox."
BODY = {"message": LONG, "stream": True, "temperature": 1.5, "seed": 1, "ignore_eos": True, "max_tokens": 300}


def cut_after(server: RunningServer, count: int, **fields: Any) -> tuple[str, str]:
    """The ids of a turn and its conversation, whose client leaves after so many events."""
    with server.http.stream("POST", "/api/v1/chat", json=BODY | fields) as response:
        stream = events(response)
        name, start = next(stream)
        assert name == "start"
        for _ in range(count - 1):
            next(stream)
    return start["message_id"], start["conversation_id"]


def rest(server: RunningServer, message_id: str, after: int) -> list[tuple[int, str, Any]]:
    """The id, the name and the data of each event of a turn after this one."""
    url = f"{server.url}/api/v1/chat/turns/{message_id}/events?after={after}"
    text = httpx.get(url, **LOCAL).raise_for_status().text
    found = []
    for block in filter(None, text.replace(": keep-alive\n\n", "").split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def said(found: list[tuple[int, str, Any]]) -> str:
    return "".join(data["text"] for _, name, data in found if name == "delta")


def test_a_client_that_is_cut_reads_the_rest_from_every_position_beside_others(server: RunningServer) -> None:
    message_id, conversation_id = cut_after(server, 10, background=True)
    with ThreadPoolExecutor(16) as pool:  # while it runs
        running = list(pool.map(lambda after: rest(server, message_id, after), [0, 1, 5, 10] * 4))
    whole = rest(server, message_id, 0)
    last_id, name, done = whole[-1]
    assert name == "done" and done["usage"]["completion_tokens"] == 300
    assert said(whole) == done["response"]
    kept = server.get(f"/api/v1/chat/conversation/{conversation_id}")["messages"][-1]
    assert (kept["id"], kept["content"]) == (message_id, done["response"])
    for found in running:
        assert done["response"].endswith(said(found)) and found[-1] == whole[-1]
    lengths = [len(said(rest(server, message_id, after))) for after in range(0, last_id, 7)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == len(done["response"])
    assert rest(server, message_id, last_id) == []


def test_a_turn_is_stopped_and_its_readers_get_what_is_kept(server: RunningServer) -> None:
    message_id, conversation_id = cut_after(server, 3, background=True, max_tokens=2_000)
    with ThreadPoolExecutor(2) as pool:
        following = [pool.submit(rest, server, message_id, 0) for _ in range(2)]
        stopped = server.http.delete(f"/api/v1/chat/turns/{message_id}").raise_for_status().json()
        assert stopped["was_running"] and stopped["reply"]["finish_reason"] == "interrupted"
        for each in following:
            found = each.result(60)
            assert found[-1][1:] == ("done", stopped["reply"]) and said(found) == stopped["reply"]["response"]
    kept = server.get(f"/api/v1/chat/conversation/{conversation_id}")["messages"][-1]
    assert (kept["content"], kept["finish_reason"]) == (stopped["reply"]["response"], "interrupted")
    wait_for(lambda: server.get("/health")["active_requests"] == 0, "the model to be free")


def test_a_client_without_background_stops_its_turn_and_its_key_gives_what_was_said(
    server: RunningServer,
) -> None:
    headers = {"Idempotency-Key": "cut"}
    with server.http.stream("POST", "/api/v1/chat", json=BODY, headers=headers) as response:
        stream = events(response)
        first = [next(stream) for _ in range(3)]
    again = server.http.post("/api/v1/chat", json=BODY, headers=headers)
    name, done = list(events(again))[-1]
    assert (name, done["finish_reason"], done["message_id"]) == (
        "done",
        "interrupted",
        first[0][1]["message_id"],
    )


@pytest.mark.parametrize("is_background", [False, True])
def test_shutdown_keeps_what_was_said_and_ends_the_stream_once(
    is_background: bool, tmp_path: Path, shared_fork_server: Path
) -> None:
    settings = {
        "LLM_DATABASE_URL": f"sqlite:///{tmp_path / 'conversations.db'}",
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(tmp_path, LLM_MODEL_NAME="builtin", **settings) as server:
        server.wait_until_ready()
        body = BODY | {"background": is_background, "max_tokens": 2_000}
        with server.http.stream("POST", "/api/v1/chat", json=body) as response:
            stream = events(response)
            start, _ = next(stream)[1], next(stream)
            server.process.send_signal(signal.SIGTERM)
            *_, (name, done) = stream
        assert (name, done["finish_reason"]) == ("done", "interrupted")
        server.process.wait(LIMIT_S)
    with running_server(tmp_path, LLM_MODEL_NAME="none", **settings) as server:
        conversation = server.get(f"/api/v1/chat/conversation/{start['conversation_id']}")
        assert conversation["messages"][-1]["content"] == done["response"] != ""


def test_the_examples_of_the_api_page_run_as_they_stand(server: RunningServer, tmp_path: Path) -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    chapters = page.split("## Turns that outlive their connection")[1].split("## Errors")[0]
    background, twice = (
        subprocess.run(
            ["bash", "-c", block.split("```")[0].replace("http://localhost:8000", server.url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for block in chapters.split("```bash\n")[1:]
    )
    assert background.startswith("event: start\n") and "\nevent: done\n" in background
    assert background.count("event: start\n") == 1
    assert background.endswith("}") and '"was_running":false' in background
    first, second = twice.replace("}{", "}\n{").splitlines()
    assert json.loads(first) == json.loads(second) and "Paris" in json.loads(first)["response"]
