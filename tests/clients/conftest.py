"""A real server for other people's clients: the built-in model, and a tiny one that says prescribed texts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.streams.prescribed import prescribed_server

CITY = {"city": "Zürich 👍"}
_CALL = json.dumps({"name": "weather", "arguments": CITY})
TEXTS = {  # what the tiny model says to each message
    "How is the weather?": f"One moment.<tool_call>\n{_CALL}\n</tool_call>",
    "Sunny, 21 degrees": "It is sunny in Zürich 👍.",
    "Hello": "Hi — and 日本語.",
}


@pytest.fixture(scope="package")
def url(tmp_path_factory: pytest.TempPathFactory, shared_fork_server: Path) -> Iterator[str]:
    with prescribed_server(tmp_path_factory.mktemp("tiny"), shared_fork_server, TEXTS) as url:
        yield url
