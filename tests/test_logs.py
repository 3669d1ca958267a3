"""What the log says with LLM_LOG_LEVEL=DEBUG, as text and as JSON, and what it never says."""

import json
from pathlib import Path

import pytest

from tests.server import running_server

KEY = "hunter2-the-key"
SYSTEM = "Answer like a heron."
MESSAGE = "What is the capital of France? Marmalade."
STOP = "zzz-stop-zzz"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, shared_fork_server: Path) -> tuple[str, list[str]]:
    """The log of a server that has answered and refused, and the texts that must not be in it."""
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_LOG_LEVEL": "DEBUG",
        "LLM_API_KEY": KEY,
        "LLM_API_KEYS": f"alice:{KEY}-of-alice",
        "LLM_HF_TOKEN": f"{KEY}-of-the-hub",
        "LLM_SYSTEM_PROMPT": SYSTEM,
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(folder, **settings) as server:
        server.http.headers["X-API-Key"] = KEY
        server.wait_until_ready()
        reply = server.chat(MESSAGE, stop=[STOP])
        server.http.post("/api/v1/chat", json={MESSAGE: MESSAGE, "message": MESSAGE})
        server.http.post("/api/v1/chat", json={"message": MESSAGE, "conversation_id": "conv_unknown"})
        server.http.post("/api/v1/generate", json={"prompt": MESSAGE * 1000})
        server.http.post("/api/v1/generate", json={"prompt": MESSAGE, "max_tokens": 3})
    secrets = [KEY, SYSTEM, "Marmalade", STOP, reply["response"], reply["conversation_id"], "conv_unknown"]
    return (folder / "server.log").read_text(encoding="utf-8"), secrets


@pytest.mark.parametrize(
    "said",
    [
        "DEBUG app.main [-] settings: ",
        " model_name='builtin' ",
        "load: model=builtin stage=load",
        "worker: model=builtin ",
        "reply begun: model=builtin prompt_tokens=",
        "reply ended: model=builtin finish_reason=",
        "error: code=conversation_not_found",
        "error: code=context_length_exceeded",
        "error: code=validation_error problems=extra_forbidden",
        "GET /health/ready 200",
    ],
)
def test_debug_log_says_what_one_needs_to_find_a_fault(log: tuple[str, list[str]], said: str) -> None:
    assert said in log[0]


def test_debug_log_contains_no_prompt_reply_key_or_conversation(log: tuple[str, list[str]]) -> None:
    written, secrets = log
    assert [text for text in secrets if text in written] == []


def test_json_log_has_one_line_for_each_request_with_its_counts(
    tmp_path: Path, shared_fork_server: Path
) -> None:
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_LOG_FORMAT": "json",
        "LLM_LOG_LEVEL": "DEBUG",
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(tmp_path, **settings) as server:
        server.wait_until_ready()
        server.http.headers["x-request-id"] = "mine"
        usage = server.chat(MESSAGE, max_tokens=4)["usage"]
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text(encoding="utf-8").splitlines()]
    (line,) = [line for line in lines if line.get("route") == "/api/v1/chat"]
    assert (line["request_id"], line["model"], line["status"]) == ("mine", "builtin", 200)
    assert [line[name] for name in usage if name in line] == [usage[name] for name in usage if name in line]
    assert line["prompt_tokens"] > 0 and line["completion_tokens"] > 0
    assert line["finish_reason"] in ("stop", "length") and line["first_token_ms"] >= line["queue_ms"] >= 0
    assert "Marmalade" not in str(lines)
