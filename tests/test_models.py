"""Models of the Hub, asked for by name from a whole server: what each is served from, and what is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.standin import Mishap, StandInHub, running
from tests.hub.tiny_repositories import DIALOGPT, LLAMA, QWEN, tiny_repository
from tests.server import RunningServer, events, running_server, wait_for

TOKEN = "hf_sesame"
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


def serve(hub: StandInHub, folder: Path, **settings: str) -> Any:
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
    return running_server(folder, **(given | settings))


def loaded(server: RunningServer) -> dict[str, Any]:
    return {model["name"]: model for model in server.get("/api/v1/chat/models")["models"]}


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
        assert server.chat("hello", max_tokens=2)["model_id"] == LLAMA
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
