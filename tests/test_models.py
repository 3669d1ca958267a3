"""Models of the Hub, asked for by name from a whole server: what each is served from, and what is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.output.model_table import current_model_line
from app.models.schemas import HealthResponse
from tests.hub.standin import Mishap, StandInHub, running
from tests.hub.tiny_repositories import DIALOGPT, LLAMA, QWEN, tiny_repository
from tests.models.hub.requests import make_folder
from tests.server import RunningServer, events, running_server, wait_for

TOKEN = "hf_sesame"
NOBODY = "http://127.0.0.1:9"
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


def serve(hub: StandInHub, folder: Path, **settings: str | None) -> Any:
    folder.joinpath("models.toml").write_text(MODELS)
    given = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "home"),
        "LLM_MODEL_NAME": "none",
        "LLM_MODELS_FILE": "models.toml",
        "LLM_ALLOW_ANY_MODEL": "true",
        "LLM_DTYPE": "float32",
        "LLM_THREADS": "1",
    }
    return running_server(folder, **{name: value for name, value in (given | settings).items() if value})


def loaded(server: RunningServer) -> dict[str, Any]:
    return {model["name"]: model for model in server.get("/api/v1/chat/models")["models"]}


def shown(server: RunningServer) -> tuple[str, str | None, str]:
    """What the current model is served from, as the list and the health say it; and the client's banner."""
    health = HealthResponse.model_validate(server.get("/api/v1/health"))
    assert health.current_model is not None and health.model is not None
    listed = loaded(server)[health.current_model]["model_id"]
    return listed, health.model.model_id, current_model_line(health)


def refusal(server: RunningServer, name: str) -> tuple[int, dict[str, Any]]:
    reply = server.http.post("/api/v1/chat/switch-model", json={"model_name": name})
    return reply.status_code, reply.json()["error"]


def test_a_request_fetches_what_it_names_and_shows_how_far_it_is(hub: StandInHub, tmp_path: Path) -> None:
    hub.mishaps["model.safetensors"] = Mishap("trickle", times=1)
    with serve(hub, tmp_path, LLM_HF_TOKEN=TOKEN) as server:
        assert server.get("/api/v1/health")["current_model"] is None
        assert server.http.get("/health/ready").status_code == 200
        reply = server.http.post("/api/v1/chat", json={"message": "hello"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_model_chosen")

        body = {"message": "hello", "model_name": "llama3-1b", "max_tokens": 4, "stream": True}
        with server.http.stream("POST", "/api/v1/chat", json=body) as stream:
            told = list(events(stream))
        downloads = [data for name, data in told if name == "progress" and data["stage"] == "download"]
        assert downloads[-1]["done_bytes"] == downloads[-1]["total_bytes"] > 0
        assert any(file["name"] == "model.safetensors" for file in downloads[-1]["files"])
        assert told[-1][0] == "done"
        assert told[-1][1]["model_id"] == LLAMA
        assert server.get("/api/v1/health")["current_model"] is None

        assert server.post("/api/v1/chat/switch-model", model_name="llama3-1b")["load_time"] == 0
        reply = server.chat("hello", max_tokens=2)
        assert (reply["model_name"], reply["model_id"]) == ("llama3-1b", LLAMA)
        assert shown(server) == (LLAMA, LLAMA, f"Current model: llama3-1b (served from {LLAMA})")
        assert server.post("/api/v1/unload-model")["was_loaded"]
        assert loaded(server)["llama3-1b"]["status"] == "available"
    assert TOKEN not in (tmp_path / "server.log").read_text()


def test_names_without_a_token_and_names_that_mean_harm(hub: StandInHub, tmp_path: Path) -> None:
    with serve(hub, tmp_path) as server:
        done = server.post("/api/v1/chat/switch-model", model_name="llama3-1b")
        assert done["model_id"] == DIALOGPT
        reply = server.chat("hello", max_tokens=2)
        assert (reply["model_name"], reply["model_id"]) == ("llama3-1b", DIALOGPT)
        assert (tmp_path / "models" / "converted" / DIALOGPT / "model.safetensors").is_file()
        assert shown(server) == (DIALOGPT, DIALOGPT, f"Current model: llama3-1b (served from {DIALOGPT})")
        wait_for(lambda: not list((tmp_path / "models").rglob("pytorch_model.bin")), "the pickle to go")

        assert refusal(server, LLAMA)[1]["code"] == "model_gated"
        assert "https://huggingface.co/meta-llama" in refusal(server, LLAMA)[1]["hint"]
        assert refusal(server, "evil/pickle")[0] == 503
        assert refusal(server, "evil/pickle")[1]["code"] == "model_refused"
        assert refusal(server, "evil/code")[1]["code"] == "model_needs_code"
        assert refusal(server, "no/such")[1]["code"] == "model_missing"
        assert refusal(server, str(tmp_path / "nothing"))[1]["code"] == "model_missing"
        assert refusal(server, "llama3-1c")[0] == 404

        assert server.post("/api/v1/load-model", model_name="mine")["model_id"] == QWEN
        assert loaded(server)["mine"]["status"] == "loaded"
        assert server.chat("hello", max_tokens=2)["model_id"] == DIALOGPT


def test_any_repository_and_any_folder_answers_where_that_is_allowed(hub: StandInHub, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", tiny_repository("gpt2"))
    with serve(hub, tmp_path) as server:
        for name, origin in ((QWEN, QWEN), ("./mine", str(folder))):
            assert server.post("/api/v1/chat/switch-model", model_name=name)["model_id"] == origin
            reply = server.chat("hello", max_tokens=2)
            assert (reply["model_name"], reply["model_id"]) == (name, origin)
            assert reply["usage"]["completion_tokens"] > 0
        assert shown(server)[2] == f"Current model: ./mine (served from .../{tmp_path.name}/mine)"
    with serve(hub, tmp_path, LLM_ALLOW_ANY_MODEL="false") as server:
        assert refusal(server, QWEN)[0] == refusal(server, "./mine")[0] == 404


def test_named_model_that_is_neither_here_nor_to_be_had_is_told(hub: StandInHub, tmp_path: Path) -> None:
    with serve(hub, tmp_path, HF_ENDPOINT=NOBODY, LLM_MODEL_NAME="llama3-1b") as server:
        reply = server.http.post("/api/v1/chat", json={"message": "hello"})
        assert reply.status_code == 503
        error = reply.json()["error"]
        assert error["code"] == "model_offline"
        assert error["message"].startswith(f"{LLAMA} is not on this machine")
        assert "Connect to the network" in error["hint"]
        assert shown(server) == (LLAMA, None, f"Current model: llama3-1b ({error['message']})")
        assert server.http.get("/health/ready").status_code == 503


def test_default_that_cannot_be_had_leaves_the_answer_to_the_builtin_model(
    hub: StandInHub, tmp_path: Path
) -> None:
    with serve(hub, tmp_path, HF_ENDPOINT=NOBODY, LLM_MODEL_NAME=None) as server:
        reply = server.chat("hello", max_tokens=2)
        assert (reply["model_name"], reply["model_id"]) == ("builtin", "builtin")
        assert shown(server) == ("builtin", "builtin", "Current model: builtin")
        wait_for(lambda: "cannot be reached" in server.get("/api/v1/health")["note"], "the default's failure")
        assert server.get("/api/v1/health")["note"].startswith(f"The built-in model answers: {LLAMA} is not")
