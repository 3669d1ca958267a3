"""Servers behind nginx whose model another server runs: that one is killed, and comes back."""

import asyncio
import secrets
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.deploy.cluster.cluster import Cluster
from tests.deploy.cluster.load import check_stored
from tests.deploy.cluster.nginx_cluster import running_nginx_cluster
from tests.deploy.cluster.turns import WAYS, Conversation, NotAnswered
from tests.deploy.proxies import NGINX
from tests.http_options import LOCAL
from tests.server import NO_WORKERS, RunningServer, free_port, running_server
from tests.test_remote_engine import models_file

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)"),
]
COUNT = 12


@dataclass
class Engine:
    """The server that runs the model, always on the same port."""

    folder: Path
    stack: ExitStack
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    runs: list[RunningServer] = field(default_factory=list)

    def start(self) -> None:
        folder = self.folder / f"engine-{len(self.runs)}"
        folder.mkdir()
        running = running_server(folder, LLM_PORT=str(self.port), LLM_MODEL_NAME="builtin", **self.settings)
        self.runs.append(self.stack.enter_context(running))
        self.runs[-1].wait_until_ready()

    def kill(self) -> None:
        self.runs[-1].stop(signal.SIGKILL)


async def ask_all(held: Sequence[Conversation], message: str) -> list[str]:
    """Asks each conversation once. Returns the errors."""

    async def error_of(conversation: Conversation) -> str | None:
        try:
            await conversation.attempt(message, secrets.token_hex(16))
        except NotAnswered as error:
            return str(error)
        return None

    return [error for error in await asyncio.gather(*map(error_of, held)) if error is not None]


async def scenario(cluster: Cluster, engine: Engine) -> None:
    async with httpx.AsyncClient(base_url=cluster.url, **LOCAL) as http:
        held = [Conversation(http, number, WAYS[number % len(WAYS)]) for number in range(COUNT)]
        assert await ask_all(held, "Hello!") == []
        asking = asyncio.create_task(ask_all(held, "What is the capital of France?"))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.3)
        await asyncio.to_thread(engine.kill)
        during, after = await asking, await ask_all(held, "What is the capital of Italy?")
        assert len(after) == COUNT
        for error in (*during, *after):
            assert '"message"' in error or "'message'" in error, error
            assert str(engine.port) not in error
        assert not any(each.broken_streams for each in held)
        await asyncio.to_thread(engine.start)
        await asyncio.gather(*(each.ask("What is the capital of Spain?") for each in held))
        for each in held:
            check_stored(each, await each.stored())


def test_a_killed_engine_is_one_clear_error_and_answers_again_when_it_is_back(
    tmp_path: Path, postgres_url: str, shared_fork_server: Path
) -> None:
    with ExitStack() as stack:
        engine = Engine(tmp_path, stack, {"LLM_FORK_SERVER": str(shared_fork_server)})
        engine.start()
        settings = {
            "LLM_MODEL_NAME": "far",
            "FAR_KEY": "any",
            "LLM_MODELS_FILE": models_file(tmp_path, f"http://127.0.0.1:{engine.port}/v1"),
            "LLM_DATABASE_URL": postgres_url,
            **NO_WORKERS,
        }
        cluster = stack.enter_context(running_nginx_cluster(tmp_path, settings, 2))
        asyncio.run(scenario(cluster, engine))
