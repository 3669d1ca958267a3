"""Every stream, joined, equals the unstreamed reply: random requests through all APIs."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.http_options import LOCAL
from tests.streams.prescribed import prescribed_server
from tests.streams.surfaces import SURFACES, Asked

_REQUESTS = 50  # through each API
_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 👍", "ok": true}}\n</tool_call>'
_PIECES = (
    "The cat",
    " sat",
    " café",
    " 👍🏽",
    " 日本語",
    "\n\n",
    "<",
    "<tool",
    "<tool_call>",
    "{",
    "</think>",
)
_ENDINGS = (" ", "END", "cat", "</tool_call>", "👍", "arguments", "{", "\n")


def drawn(seed: int) -> tuple[Asked, str]:
    """A request, and the text that the model says if the request demands no form."""
    draw = random.Random(seed)
    pieces = draw.choices(_PIECES, k=draw.randint(1, 8))
    has_tools = draw.random() < 0.7
    for _ in range(draw.randint(0, 2) if has_tools else 0):
        pieces.insert(draw.randint(0, len(pieces)), _CALL)
    forms = ("text", "text", "schema", "required", "named") if has_tools else ("text", "schema")
    form = draw.choice(forms)
    asked = Asked(
        message=f"request {seed}",
        max_tokens=draw.choice((draw.randint(1, 100), 400)),
        stop=draw.sample(_ENDINGS, draw.choice((0, 0, 1, 2))),
        form=form,
        has_tools=has_tools and form != "schema",
        is_parallel=draw.random() < 0.7,
        thinks=draw.random() < 0.4,
        has_logprobs=draw.random() < 0.5,
        count=draw.choice((1, 1, 2, 3)),
    )
    return asked, "".join(pieces)


REQUESTS = [drawn(seed) for seed in range(_REQUESTS)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, shared_fork_server: Path) -> Iterator[str]:
    texts = {asked.message: text for asked, text in REQUESTS}
    with prescribed_server(tmp_path_factory.mktemp("tiny"), shared_fork_server, texts) as url:
        yield url


@pytest.mark.parametrize("path", SURFACES)
def test_stream_joined_is_the_whole_reply(path: str, url: str) -> None:
    """With and without tools, schema, thinking, stop strings and several choices, cut at any token."""
    with (
        httpx.Client(base_url=url, **LOCAL) as http,
        ThreadPoolExecutor(4) as executor,
    ):
        replies = executor.map(lambda each: SURFACES[path](http, each[0]), REQUESTS)
        for (asked, text), (whole, joined) in zip(REQUESTS, replies, strict=True):
            assert joined == whole, (asked, text)
