"""Runs the Python examples of docs/clients.md against a real server with the built-in model."""

import contextlib
import io
import re

import pytest

from tests.server import ROOT, RunningServer

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # the clients' own code gives rise to several
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_gets_an_answer(number: int, server: RunningServer) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(EXAMPLES[number].replace("http://localhost:8000", server.url), {})
    assert "Paris" in shown.getvalue()


def test_page_has_examples() -> None:
    assert len(EXAMPLES) == 5
