import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.cli.errors import ClientError, ServerDied, Unreachable
from app.cli.net.client import ChatClient
from app.cli.net.server import PROJECT, OwnServer, choose_port, default_address, own_environment
from tests.cli.conftest import Seen
from tests.waiting import LIMIT_S, wait_for

COMMAND = (sys.executable, "-m", "tests.cli.stand_in.process", "--exit-on-stdin-close")


@pytest.fixture
def own() -> Iterator[OwnServer]:
    server = OwnServer("127.0.0.1", choose_port("127.0.0.1", 0), dict(os.environ), COMMAND)
    yield server
    server.stop()


def _started(own: OwnServer, seen: Seen) -> str:
    async def start() -> str:
        own.start()
        async with ChatClient(own.url) as client:
            with seen.terminal().bar() as bar:
                return (await own.until_ready(client, bar)).status

    return asyncio.run(start())


def test_server_that_is_slow_to_start_is_not_taken_for_dead(own: OwnServer, seen: Seen) -> None:
    async def start() -> None:
        own.start()
        async with ChatClient(own.url) as client:
            with seen.terminal().bar() as bar:
                await own.until_ready(client, bar, timeout_s=0)

    with pytest.raises(Unreachable, match="did not answer within 0 s"):
        asyncio.run(start())
    assert own.is_alive


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"LLM_HOST": "0.0.0.0", "LLM_PORT": "9000"}, ("127.0.0.1", 9000)),
        ({"LLM_PORT": "0"}, ("127.0.0.1", 0)),
        ({"LLM_HOST": "::"}, ("::1", 8000)),
    ],
)
def test_default_address_follows_the_settings(environ: dict[str, str], address: tuple[str, int]) -> None:
    assert default_address(environ) == address


@pytest.mark.parametrize(
    ("host", "environ", "allows"),
    [
        ("127.0.0.1", {}, "true"),
        ("::1", {"LLM_ALLOW_ANY_MODEL": ""}, "true"),
        ("localhost", {}, "true"),
        ("127.0.0.1", {"LLM_ALLOW_ANY_MODEL": "false"}, "false"),
        ("192.0.2.1", {}, "false"),
        ("server.example", {}, "false"),
    ],
)
def test_own_server_allows_any_model_unless_others_reach_it(
    host: str, environ: dict[str, str], allows: str
) -> None:
    assert own_environment(host, 8000, environ)["LLM_ALLOW_ANY_MODEL"] == allows


def test_invalid_port_is_reported() -> None:
    with pytest.raises(ClientError, match="LLM_PORT"):
        default_address({"LLM_PORT": "http"})


def test_choose_port_avoids_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert choose_port("127.0.0.1", port) != port


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 70])
def test_choose_port_reports_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(ClientError, match="No port can be opened"):
        choose_port(host, 0)


def test_own_server_has_a_process_group_and_stops(own: OwnServer, seen: Seen) -> None:
    assert _started(own, seen) == "ok"
    assert own.pid is not None
    assert os.getpgid(own.pid) != os.getpgid(0)
    assert own.log.stat().st_mode & 0o777 == 0o600
    own.stop()
    assert not own.is_alive


def test_own_server_that_ends_at_once_reports_its_log(seen: Seen) -> None:
    environ = os.environ | {"LLM_MODEL_NAME": "broken"}
    own = OwnServer("127.0.0.1", choose_port("127.0.0.1", 0), environ, COMMAND)
    with pytest.raises(ServerDied, match="no model named 'broken'") as caught:
        _started(own, seen)
    own.stop()
    assert str(own.log) in str(caught.value.hint)


def test_last_log_lines_skip_the_frames_of_a_traceback(own: OwnServer) -> None:
    own.log.write_text(
        'Traceback (most recent call last):\n  File "a.py"\n    x\nModuleNotFoundError: no torch\n'
    )
    assert own.last_log_lines()[-1] == "ModuleNotFoundError: no torch"


_KILLED_CLIENT = """
import os, sys, time
from app.cli.net.server import OwnServer
own = OwnServer("127.0.0.1", int(sys.argv[1]), dict(os.environ), tuple(sys.argv[2:]))
own.start()
print(own.pid, flush=True)
time.sleep(60)
"""


def test_own_server_ends_when_the_client_is_killed() -> None:
    port = str(choose_port("127.0.0.1", 0))
    client = subprocess.Popen(
        [sys.executable, "-c", _KILLED_CLIENT, port, *COMMAND], stdout=subprocess.PIPE, cwd=PROJECT
    )
    assert client.stdout is not None
    server = int(client.stdout.readline())
    client.send_signal(signal.SIGKILL)
    client.wait(LIMIT_S)
    client.stdout.close()
    wait_for(lambda: not _is_running(server))


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
