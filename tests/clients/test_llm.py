"""Simon Willison's llm, with the server in its extra-openai-models.yaml, as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import CITY
from tests.server import RunningServer
from tests.streams.prescribed import NAME
from tests.waiting import LIMIT_S


def run_llm(folder: Path, url: str, model: str, *arguments: str) -> str:
    """What the command prints."""
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: here\n  model_name: {model}\n  api_base: {url}/v1\n  api_key_name: here\n"
        "  supports_tools: true\n  supports_schema: true\n"
    )
    command = [sys.executable, "-m", "llm", "--key", "none", "-m", "here", *arguments]
    environment = os.environ | {"LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": ""}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [(), ("--no-stream",)])
def test_llm_asks_the_builtin_model(stream: tuple[str, ...], server: RunningServer, tmp_path: Path) -> None:
    options = ("-o", "temperature", "0", *stream)
    assert "Paris" in run_llm(tmp_path, server.url, "builtin", "What is the capital of France?", *options)


def test_llm_runs_a_tool_and_sends_its_result(url: str, tmp_path: Path) -> None:
    check = f"assert city == {CITY['city']!r}"
    function = f"def weather(city: str) -> str:\n    {check}\n    return 'Sunny, 21 degrees'\n"
    answer = run_llm(tmp_path, url, NAME, "How is the weather?", "--functions", function)
    assert answer.endswith("It is sunny in Zürich 👍.\n")


def test_llm_gets_the_form_of_a_schema(url: str, tmp_path: Path) -> None:
    flag = {"type": "boolean"}
    schema = {
        "type": "object",
        "properties": {"is_true": flag, "is_old": flag},
        "required": ["is_true", "is_old"],
        "additionalProperties": False,
    }
    answer = run_llm(tmp_path, url, NAME, "Hello", "--schema", json.dumps(schema))
    assert set(json.loads(answer)) == {"is_true", "is_old"}
