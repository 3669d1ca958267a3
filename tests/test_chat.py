"""Tests chats with the built-in model through a real server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from tests.http_options import LOCAL
from tests.server import ROOT, RunningServer, events, free_port, running_server, wait_until_answering
from tests.waiting import LIMIT_S, wait_for

LONG = "Tell me a story about a fox."
SILENCE_S = 60  # longer than any pause in a stream


def test_builtin_model_knows_the_capital_of_france(server: RunningServer) -> None:
    reply = server.chat("What is the capital of France?")
    assert "Paris" in reply["response"]
    assert reply["finish_reason"] == "stop"
    assert reply["model_name"] == reply["model_id"] == "builtin"


def test_builtin_model_writes_a_working_factorial(server: RunningServer) -> None:
    first = server.chat("Hello! Can you help me write a Python function?")
    reply = server.chat(
        "A function that calculates the factorial of a number", conversation_id=first["conversation_id"]
    )
    code = reply["response"].split("```python\n")[1].split("```")[0]
    script = f"{code}\nassert factorial(5) == 120"
    assert subprocess.run([sys.executable, "-I", "-c", script], timeout=30).returncode == 0


def test_builtin_model_says_when_it_does_not_know(server: RunningServer) -> None:
    reply = server.chat("How do I replace the head gasket of a tractor?")
    assert "/switch" in reply["response"]


def test_builtin_model_remembers_a_name_across_model_switches(server: RunningServer) -> None:
    first = server.chat("Hi, my name is Marlowe.")
    conversation = {"conversation_id": first["conversation_id"]}
    assert server.post("/api/v1/chat/switch-model", model_name="gpt2")["message"].startswith("Successfully")
    assert server.chat("Nice weather today.", max_tokens=4, **conversation)["model_name"] == "gpt2"
    server.post("/api/v1/chat/switch-model", model_name="builtin")
    assert "Marlowe" in server.chat("What is my name?", **conversation)["response"]


def test_eight_concurrent_requests_get_the_same_replies_as_single_ones(server: RunningServer) -> None:
    messages = [f"Hello, I am number {number}. {LONG}" for number in range(8)]
    alone = [server.chat(message) for message in messages]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(server.chat, messages))
    assert [reply["response"] for reply in together] == [reply["response"] for reply in alone]
    timings = [reply["timings"] for reply in together]
    # No request waits until another one has finished.
    assert max(timing["first_token_s"] for timing in timings) < min(timing["total_s"] for timing in timings)


def test_a_long_history_is_not_recomputed(server: RunningServer) -> None:
    text = "I like the sea and the mountains, and I walk there every day with my old brown dog. "
    first = server.chat(text * 30, max_tokens=40)
    assert first["usage"]["prompt_tokens"] > 600
    second = server.chat("Thank you.", conversation_id=first["conversation_id"])
    assert second["usage"]["cached_tokens"] > 0.9 * first["usage"]["prompt_tokens"]


def test_a_client_that_disconnects_frees_the_model(server: RunningServer) -> None:
    body = {"message": LONG, "stream": True, "temperature": 1.5, "seed": 1}
    with server.http.stream("POST", "/api/v1/chat", json=body) as response:
        stream = events(response)
        assert next(stream)[0] == "start"
        assert next(stream)[0] == "delta"
    wait_for(lambda: server.get("/health")["active_requests"] == 0, "the request to end")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a fork server of its own, whose processes may be killed."""
    with running_server(tmp_path_factory.mktemp("own"), LLM_MODEL_NAME="builtin") as server:
        yield server


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can limit it")
def test_requests_cannot_make_a_worker_grow_without_bound(own_server: RunningServer) -> None:
    own_server.wait_until_ready()
    (worker,) = own_server.worker_pids()
    assert psutil.Process(worker).rlimit(psutil.RLIMIT_DATA)[0] != psutil.RLIM_INFINITY


def test_a_killed_worker_ends_its_streams_and_is_replaced(own_server: RunningServer) -> None:
    own_server.wait_until_ready()
    first = own_server.chat("My name is Marlowe.")
    body = {"message": LONG, "stream": True, "conversation_id": first["conversation_id"]}
    with own_server.http.stream("POST", "/api/v1/chat", json=body, timeout=SILENCE_S) as response:
        stream = events(response)
        next(stream)
        (worker,) = own_server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        *_, (name, data) = stream
    assert (name, data["error"]["code"]) == ("error", "worker_died")
    assert own_server.http.get("/health/ready").status_code == 503
    history = own_server.get(f"/api/v1/chat/conversation/{first['conversation_id']}")
    assert history["message_count"] == 2
    reply = own_server.chat("What is my name?", conversation_id=first["conversation_id"])
    assert "Marlowe" in reply["response"]


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_answers_while_loading_and_workers_end_with_it(
    signal_number: signal.Signals, tmp_path: Path
) -> None:
    with running_server(tmp_path, LLM_MODEL_NAME="builtin", TMPDIR=str(tmp_path)) as server:
        assert server.get("/health")["status"] == "loading"
        wait_for(server.worker_pids, "a worker")
        server.wait_until_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.stop(signal_number)
        wait_for(lambda: not any(is_running(child.pid) for child in children), "all processes to end")
        wait_for(lambda: not list(tmp_path.glob("llm-*")), "the folders of the sockets to be deleted")


def test_server_continues_after_its_fork_server_is_killed(own_server: RunningServer) -> None:
    own_server.wait_until_ready()
    before = own_server.worker_pids()
    (fork_server,) = (
        child
        for child in psutil.Process(own_server.process.pid).children()
        if child.name() == "llm-fork-server"
    )
    fork_server.kill()
    wait_for(lambda: not is_running(fork_server.pid), "the fork server to end")
    assert "Paris" in own_server.chat("What is the capital of France?")["response"]
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: own_server.http.get("/health/ready").status_code == 503, "the server to notice")
    assert "Paris" in own_server.chat("What is the capital of France?")["response"]
    assert own_server.worker_pids() and own_server.worker_pids() != before


def test_the_server_never_loads_torch(server: RunningServer) -> None:
    server.chat("Hello")
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_an_imported_transcript_can_be_continued(server: RunningServer) -> None:
    messages = [
        {"role": "user", "content": "My favourite colour is violet."},
        {"role": "assistant", "content": "Violet is a lovely colour."},
    ]
    made = server.post("/api/v1/chat/new", messages=messages)
    reply = server.chat("What is my favourite colour?", conversation_id=made["conversation_id"])
    assert "violet" in reply["response"].lower()


def test_a_system_prompt_is_followed(server: RunningServer) -> None:
    reply = server.chat("What is the capital of Spain?", system_prompt="Answer in one word.")
    assert reply["response"].strip(" .") == "Madrid"


def test_standalone_test_needs_no_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "standalone_test.py"), "--model", "builtin"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "Paris" in done.stdout
    assert "tokens/s" in done.stdout


def test_uvicorn_serves_it_as_the_readme_says(tmp_path: Path, shared_fork_server: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--reload", "--port", str(port)]
    settings = {"LLM_MODEL_NAME": "builtin", "LLM_FORK_SERVER": str(shared_fork_server)}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        wait_until_answering(process, f"http://127.0.0.1:{port}")
        with closing(httpx.Client(base_url=f"http://127.0.0.1:{port}", **LOCAL)) as http:
            reply: Any = http.post("/api/v1/chat", json={"message": "What is the capital of Italy?"}).json()
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
    assert "Rome" in reply["response"]
