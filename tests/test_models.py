"""Tests a real server with a stand-in Hub: which repository serves each name, and what is reported."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from app.cli.output.model_table import current_model_line
from app.models.schemas import HealthResponse
from tests.hub.standin import Mishap, StandInHub, running
from tests.hub.tiny_repositories import DIALOGPT, LLAMA, QWEN, tiny_repository
from tests.models.hub.requests import make_folder
from tests.server import RunningServer, events, running_server
from tests.waiting import wait_for

TOKEN = "hf_sesame"
UNREACHABLE = "http://127.0.0.1:9"
MODELS = """
[models.mine]
source = "Qwen/Qwen3-0.6B"
description = "Mine"
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    llama = tiny_repository("llama")
    standin = StandInHub(
        repositories={
            LLAMA: llama,
            DIALOGPT: tiny_repository("gpt2", is_pickle=True, has_template=False),
            QWEN: tiny_repository("qwen3"),
            "evil/pickle": {n: c for n, c in llama.items() if n != "model.safetensors"}
            | {"pytorch_model.bin": b"x"},
            "evil/code": llama
            | {"config.json": b'{"auto_map": {"AutoConfig": "evil.E"}}', "evil.py": b"1/0"},
        },
        gated={LLAMA: {TOKEN}},
    )
    with running(standin):
        yield standin


@pytest.fixture(scope="module")
def environment(hub: StandInHub, shared_fork_server: Path) -> dict[str, str]:
    """The environment of a server that uses the stand-in Hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": "home",
        "LLM_MODEL_NAME": "none",
        "LLM_MODELS_FILE": "models.toml",
        "LLM_ALLOW_ANY_MODEL": "true",
        "LLM_DTYPE": "float32",
        "LLM_THREADS": "1",
        "LLM_FORK_SERVER": str(shared_fork_server),
    }


def serve(folder: Path, environment: dict[str, str]) -> AbstractContextManager[RunningServer]:
    """Runs a server in the folder, with a models file."""
    folder.joinpath("models.toml").write_text(MODELS)
    return running_server(folder, **environment)


def models_by_name(server: RunningServer) -> dict[str, Any]:  # Any: JSON documents
    return {model["name"]: model for model in server.get("/api/v1/chat/models")["models"]}


def current_sources(server: RunningServer) -> tuple[str, str | None, str]:
    """The current model's source in the list of models and in the health, and the client's banner."""
    health = HealthResponse.model_validate(server.get("/api/v1/health"))
    assert health.current_model is not None and health.model is not None
    listed = models_by_name(server)[health.current_model]["model_id"]
    return listed, health.model.model_id, current_model_line(health)


def refusal(server: RunningServer, name: str) -> tuple[int, dict[str, Any]]:  # Any: a JSON document
    """The status and the error of a switch to the model."""
    reply = server.http.post("/api/v1/chat/switch-model", json={"model_name": name})
    return reply.status_code, reply.json()["error"]


def test_a_request_downloads_its_model_and_reports_progress(
    hub: StandInHub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.mishaps["model.safetensors"] = Mishap("trickle", times=1)
    with serve(tmp_path, environment | {"LLM_HF_TOKEN": TOKEN}) as server:
        assert server.get("/api/v1/health")["current_model"] is None
        assert server.http.get("/health/ready").status_code == 200
        reply = server.http.post("/api/v1/chat", json={"message": "hello"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_model_chosen")

        body = {"message": "hello", "model_name": "llama3-1b", "max_tokens": 4, "stream": True}
        with server.http.stream("POST", "/api/v1/chat", json=body) as stream:
            received = list(events(stream))
        downloads = [data for name, data in received if name == "progress" and data["stage"] == "download"]
        assert downloads[-1]["done_bytes"] == downloads[-1]["total_bytes"] > 0
        assert any(file["name"] == "model.safetensors" for file in downloads[-1]["files"])
        assert received[-1][0] == "done"
        assert received[-1][1]["model_id"] == LLAMA
        assert server.get("/api/v1/health")["current_model"] is None

        assert server.post("/api/v1/chat/switch-model", model_name="llama3-1b")["load_time"] == 0
        reply = server.chat("hello", max_tokens=2)
        assert (reply["model_name"], reply["model_id"]) == ("llama3-1b", LLAMA)
        assert current_sources(server) == (LLAMA, LLAMA, f"Current model: llama3-1b (served from {LLAMA})")
        assert server.post("/api/v1/unload-model")["was_loaded"]
        assert models_by_name(server)["llama3-1b"]["status"] == "available"
    assert TOKEN not in (tmp_path / "server.log").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of `tokenless`."""
    return tmp_path_factory.mktemp("tokenless")


@pytest.fixture(scope="module")
def tokenless(environment: dict[str, str], folder: Path) -> Iterator[RunningServer]:
    """A server without a Hugging Face token, which may load any repository and any folder."""
    with serve(folder, environment) as running:
        yield running


def test_a_pickle_is_converted_and_served_if_the_first_source_is_gated(
    tokenless: RunningServer, folder: Path
) -> None:
    done = tokenless.post("/api/v1/chat/switch-model", model_name="llama3-1b")
    assert done["model_id"] == DIALOGPT
    reply = tokenless.chat("hello", max_tokens=2)
    assert (reply["model_name"], reply["model_id"]) == ("llama3-1b", DIALOGPT)
    assert (folder / "models" / "converted" / DIALOGPT / "model.safetensors").is_file()
    banner = f"Current model: llama3-1b (served from {DIALOGPT})"
    assert current_sources(tokenless) == (DIALOGPT, DIALOGPT, banner)
    wait_for(lambda: not list((folder / "models").rglob("pytorch_model.bin")), "the pickle to be deleted")

    assert tokenless.post("/api/v1/load-model", model_name="mine")["model_id"] == QWEN
    assert models_by_name(tokenless)["mine"]["status"] == "loaded"
    assert tokenless.chat("hello", max_tokens=2)["model_id"] == DIALOGPT


def test_gated_hostile_and_missing_models_are_refused(tokenless: RunningServer, folder: Path) -> None:
    assert refusal(tokenless, LLAMA)[1]["code"] == "model_gated"
    assert "https://huggingface.co/meta-llama" in refusal(tokenless, LLAMA)[1]["hint"]
    assert refusal(tokenless, "evil/pickle")[0] == 503
    assert refusal(tokenless, "evil/pickle")[1]["code"] == "model_refused"
    assert refusal(tokenless, "evil/code")[1]["code"] == "model_needs_code"
    assert refusal(tokenless, "no/such")[1]["code"] == "model_missing"
    assert refusal(tokenless, str(folder / "nothing"))[1]["code"] == "model_missing"
    assert refusal(tokenless, "llama3-1c")[0] == 404


def test_any_repository_and_any_folder_can_be_served_if_allowed(
    tokenless: RunningServer, folder: Path
) -> None:
    mine = make_folder(folder / "mine", tiny_repository("gpt2"))
    for name, source in ((QWEN, QWEN), ("./mine", str(mine))):
        assert tokenless.post("/api/v1/chat/switch-model", model_name=name)["model_id"] == source
        reply = tokenless.chat("hello", max_tokens=2)
        assert (reply["model_name"], reply["model_id"]) == (name, source)
        assert reply["usage"]["completion_tokens"] > 0
    banner = f"Current model: ./mine (served from .../{folder.name}/mine)"
    assert current_sources(tokenless)[2] == banner


def test_a_chosen_model_that_cannot_be_downloaded_is_reported_and_not_replaced(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment = environment | {
        "HF_ENDPOINT": UNREACHABLE,
        "LLM_MODEL_NAME": "llama3-1b",
        "LLM_ALLOW_ANY_MODEL": "false",
    }
    with serve(tmp_path, environment) as server:
        reply = server.http.post("/api/v1/chat", json={"message": "hello"})
        assert reply.status_code == 503
        error = reply.json()["error"]
        assert error["code"] == "model_offline"
        assert error["message"].startswith(f"{LLAMA} is not on this machine")
        assert "Connect to the network" in error["hint"]
        line = f"Current model: llama3-1b ({error['message']} It is tried again.)"
        wait_for(lambda: current_sources(server) == (LLAMA, None, line), "the second try to be announced")
        assert server.http.get("/health/ready").status_code == 503
        assert refusal(server, QWEN)[0] == refusal(server, "./mine")[0] == 404


def test_builtin_model_replaces_a_default_that_cannot_be_downloaded(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment = environment | {"HF_ENDPOINT": UNREACHABLE}
    del environment["LLM_MODEL_NAME"]
    with serve(tmp_path, environment) as server:
        server.wait_until_ready()
        reply = server.chat("What is the capital of France?")
        assert (reply["model_name"], reply["model_id"]) == ("builtin", "builtin")
        assert "Paris" in reply["response"]
        assert current_sources(server) == ("builtin", "builtin", "Current model: builtin")
        wait_for(lambda: not server.get("/health")["loading"], "the download to fail")
        assert server.get("/api/v1/health")["note"].startswith(f"The built-in model answers: {LLAMA} is not")
