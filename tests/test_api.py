"""Tests the app over HTTP with tiny models in worker processes, and client_test.py against it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from starlette.responses import JSONResponse
from transformers import AutoModelForCausalLM

import client_test
from app.apicheck.checks import CHECKS
from app.apicheck.runner import Target, run_checks
from app.composition import build_services
from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.main import create_app
from app.services import Services
from tests.api.fakes import serving
from tests.engine.tiny import WINDOW, configs, make_tokenizer
from tests.http_options import LOCAL
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
GREEDY = {"temperature": 0, "max_tokens": 8}
# A check of a running server deletes no conversations but its own.
UNCHECKED = {"DELETE /api/v1/chat/conversations"}


def tiny(name: str, architecture: str, folder: Path) -> ModelProfile:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = configs(len(tokenizer))[architecture]
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelProfile(
        name, name, "tiny", (Source(str(folder)),), WINDOW, 1, 1, SamplingDefaults(max_tokens=16)
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, shared_fork_server: Path) -> Iterator[str]:
    """A server whose catalogue has two tiny models with names of the real catalogue."""
    folder = tmp_path_factory.mktemp("models")
    catalogue = {
        "builtin": tiny("builtin", "llama", folder / "a"),
        "gpt2": tiny("gpt2", "gpt2", folder / "b"),
    }
    settings = Settings(
        model_name="builtin",
        dtype="float32",
        threads=1,
        fork_server=shared_fork_server,
        _env_file=None,
    )

    def build(settings: Settings) -> Services:
        return build_services(settings, catalogue)

    def is_ready() -> bool:
        return httpx.get(f"{address}/health/ready", **LOCAL).status_code == 200

    with serving(create_app(settings, build)) as address:
        wait_for(is_ready, "the server to be ready")
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}/api/v1", **LOCAL) as found:
        yield found


def test_client_test_passes_and_fits_80_columns(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert client_test.main(["--url", url]) == 0
    output = capsys.readouterr().out
    assert f"{len(CHECKS)} of {len(CHECKS)} checks passed" in output
    assert "…" not in output


def test_client_test_covers_every_route(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json", **LOCAL).json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in schema.items() for method in methods}
    assert routes - {check.route for check in CHECKS} == UNCHECKED


def test_client_test_names_the_command_to_start_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert client_test.main(["--url", "http://127.0.0.1:1"]) == 3
    assert "uvicorn app.main:app --host 127.0.0.1 --port 1" in capsys.readouterr().out


def test_client_test_reads_the_env_file_below_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PORT", "8712")
    (tmp_path / ".env").write_text("LLM_HOST=::\nLLM_PORT=8711\nLLM_API_KEY=open sesame\n")
    options = client_test.parse([])
    assert (options.url, options.api_key) == ("http://[::1]:8712", "open sesame")


def test_client_test_refuses_an_env_file_that_is_not_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"LLM_SYSTEM_PROMPT=caf\xe9\n")
    assert client_test.main([]) == 2
    assert ".env is not UTF-8 text." in capsys.readouterr().out


@pytest.mark.parametrize("address", ["http://[::1", "notaurl", "ftp://x"])
def test_client_test_refuses_an_invalid_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_test.main(["--url", address]) == 2
    assert f"The address '{address}' is not an HTTP address." in capsys.readouterr().out


def test_checks_fail_against_another_service() -> None:
    with (
        serving(JSONResponse({})) as foreign,
        httpx.Client(base_url=foreign, **LOCAL) as http,
    ):
        outcomes = list(run_checks(CHECKS, Target(http)))
    kept = [outcome.check.description for outcome in outcomes if outcome.problem is None]
    assert kept == ["reports that it is live"]  # of /health/live, which accepts any answer


def test_menu_calls_a_route(url: str) -> None:
    command = [sys.executable, "client_test.py", "--url", url, "--interactive"]
    shown = subprocess.run(
        command, cwd=ROOT, input="1\n\n0\n", capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "POST /api/v1/chat" in shown and "200 OK" in shown and '"response"' in shown


def test_conversation_continues_after_a_switch(client: httpx.Client) -> None:
    first = client.post("/chat", json={"message": "hello", **GREEDY}).json()
    switched = client.post("/chat/switch-model", json={"model_name": "gpt2"}).json()
    assert switched["model_name"] == "gpt2"
    body = {"message": "again", "conversation_id": first["conversation_id"], **GREEDY}
    second = client.post("/chat", json=body).json()
    assert (second["model_name"], second["message_count"]) == ("gpt2", 4)
    assert client.post("/chat/switch-model", json={"model_name": "builtin"}).status_code == 200


def test_stream_and_reply_are_the_same(client: httpx.Client) -> None:
    reply = client.post("/chat", json={"message": "hello", **GREEDY}).json()["response"]
    stream = client.post("/chat", json={"message": "hello", "stream": True, **GREEDY}).text
    assert f'"response":{httpx.Response(200, json=reply).text}' in re.sub(r"\s*:\s*", ":", stream)
