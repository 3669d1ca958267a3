"""Runs the Python examples of docs/clients.md against a real server with the built-in model."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.server import ROOT, running_server

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_gets_an_answer(number: int, tmp_path: Path) -> None:
    with running_server(tmp_path, LLM_MODEL_NAME="builtin") as server:
        server.wait_until_ready()
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(EXAMPLES[number].replace("http://localhost:8000", server.url), {})
    assert "Paris" in shown.getvalue()


def test_page_has_examples() -> None:
    assert len(EXAMPLES) == 3
