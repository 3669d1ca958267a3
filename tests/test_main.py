"""The server as a process: how it starts, what it imports, how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.core.config import Settings, SettingsError
from app.main import create_app
from tests.http_options import LOCAL
from tests.server import NO_WORKERS, free_port
from tests.waiting import LIMIT_S, wait_for

ROOT = Path(__file__).resolve().parents[1]
FAKE_SERVER = """
import sys, uvicorn
from tests.api.fakes import Scripted, fake_app
uvicorn.run(fake_app(Scripted(), api_keys_file=sys.argv[2] or None), port=int(sys.argv[1]))
"""


@contextmanager
def process(*command: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", **LOCAL).is_success
    except httpx.TransportError:
        return False


def log_until(text: str, running: subprocess.Popen[str]) -> str:
    """The output of the process until the text is in it, and a little more."""
    assert running.stdout is not None
    output, descriptor = bytearray(), running.stdout.fileno()
    os.set_blocking(descriptor, False)

    def is_there() -> bool:
        with suppress(BlockingIOError):
            output.extend(os.read(descriptor, 1 << 16))
        return text.encode() in output

    wait_for(is_there, f"the log to say {text!r}")
    os.set_blocking(descriptor, True)
    return output.decode()


def until_it_answers(url: str) -> None:
    wait_for(lambda: is_alive(url), "the server to answer")


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The environment of a server that has no model and no network. It answers all the same."""
    offline = {"LLM_MODEL_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "LLM_PORT": str(free_port())}
    return offline | NO_WORKERS


@pytest.fixture
def with_fork_server(offline: dict[str, str]) -> dict[str, str]:
    """The same with a fork server, which has to end with its server."""
    return {name: value for name, value in offline.items() if name not in NO_WORKERS}


def test_app_is_built_on_access_and_not_on_import() -> None:
    import app.main

    assert "app" not in vars(app.main)
    assert app.main.app.title == "LLM server"
    with pytest.raises(AttributeError):
        _ = app.main.other


def test_unknown_model_name_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="LLM_MODEL_NAME: .* Did you mean llama3-1b"):
        create_app(Settings(model_name="llama3-1c", _env_file=None))


@pytest.mark.parametrize("command", [["-m", "app"], ["-m", "uvicorn", "app.main:app"]])
@pytest.mark.parametrize("wrong", [{"LLM_PORT": "many"}, {"LLM_MODEL_NAME": "gpt22"}])
def test_wrong_settings_are_reported_in_one_line(command: list[str], wrong: dict[str, str]) -> None:
    with process(*command, **{"LLM_PORT": str(free_port())} | wrong) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 1
    assert output.startswith(f"Wrong settings. {next(iter(wrong))}: ")
    assert len(output.splitlines()) == 1


UVICORN = ["-m", "uvicorn", "app.main:app"]


@pytest.mark.parametrize(("options", "environ"), [(["--workers", "2"], {}), ([], {"UVICORN_WORKERS": "2"})])
def test_several_processes_are_refused_in_a_sentence(
    options: list[str], environ: dict[str, str], offline: dict[str, str]
) -> None:
    with process(*UVICORN, "--port", offline["LLM_PORT"], *options, **offline, **environ) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert "WEB_CONCURRENCY: the server keeps its conversations in one process" in output
    assert "Traceback" not in output


SCRIPT = """
import uvicorn
if __name__ == "__main__":
    uvicorn.run("app.main:app", port={port}, workers={workers})
"""


def test_several_processes_that_a_script_starts_are_refused(tmp_path: Path, offline: dict[str, str]) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT.format(port=offline["LLM_PORT"], workers=2))
    with process(str(script), PYTHONPATH=str(ROOT), **offline) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert "The server keeps its conversations in one process" in output
    assert "Traceback" not in output


def test_wrong_setting_ends_uvicorn_with_several_processes(offline: dict[str, str]) -> None:
    with process(*UVICORN, "--port", "0", "--workers", "2", **offline | {"LLM_PORT": "many"}) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert "Wrong settings." in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("command", "concurrency"),
    [(["-m", "app"], "2"), (["-m", "app"], "many"), ([*UVICORN, "--workers", "1"], "2")],
)
def test_server_of_one_process_ignores_web_concurrency(
    command: list[str], concurrency: str, offline: dict[str, str]
) -> None:
    port = ["--port", offline["LLM_PORT"]] if command[1] == "uvicorn" else []
    with process(*command, *port, **offline, WEB_CONCURRENCY=concurrency) as server:
        until_it_answers(f"http://127.0.0.1:{offline['LLM_PORT']}")
        server.terminate()
        server.communicate(timeout=LIMIT_S)


def test_reloading_server_ignores_web_concurrency(offline: dict[str, str]) -> None:
    options = ["--reload", "--reload-dir", "app/api", "--port", offline["LLM_PORT"]]
    with process(*UVICORN, *options, **offline, WEB_CONCURRENCY="2") as server:
        until_it_answers(f"http://127.0.0.1:{offline['LLM_PORT']}")
        server.terminate()
        server.communicate(timeout=LIMIT_S)


def test_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("-m", "app", LLM_PORT=str(port)) as started:
            output, _ = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 1
    assert output == (
        f"Port {port} is in use. Stop the other server (`lsof -i :{port}` shows its process id), "
        "or choose another port: `--port NUMBER` or LLM_PORT.\n"
    )


def test_too_few_open_files_are_reported_in_one_line(offline: dict[str, str]) -> None:
    """Otherwise the server would accept no connection, and log a traceback each second."""
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); "
    with process("-c", limited + "runpy.run_module('app', run_name='__main__')", **offline) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 1
    assert (
        output == "This process may open only 16 files; the server needs 32. Raise the limit (`ulimit -n`).\n"
    )


@pytest.mark.parametrize("host", ["nonexistent.invalid", "192.0.2.1"])
def test_host_of_another_machine_is_reported_in_one_line(host: str, offline: dict[str, str]) -> None:
    with process("-m", "app", **offline, LLM_HOST=host) as started:
        output, _ = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 1
    assert output == f"LLM_HOST: {host} is not an address of this machine.\n"


def test_misspelt_setting_in_the_environment_causes_a_warning(offline: dict[str, str]) -> None:
    names = {"LLM_THREAD": "secret", "llm_modelname": "gpt2", "LLM_FAVOURITE": "/home/ada"}
    with process("-m", "app", **offline, **names) as server:
        until_it_answers(f"http://127.0.0.1:{offline['LLM_PORT']}")
        server.terminate()
        output, _ = server.communicate(timeout=LIMIT_S)
    assert "The environment variable LLM_THREAD is not a setting. Did you mean LLM_THREADS?" in output
    assert "The environment variable llm_modelname is not a setting. Did you mean LLM_MODEL_NAME?" in output
    assert "LLM_FAVOURITE" not in output and "secret" not in output


def test_process_answers_without_importing_torch(offline: dict[str, str]) -> None:
    script = "import sys, app.__main__ as m; m.main(); print(*sorted(sys.modules), sep='\\n')"
    with process("-c", script, **offline) as server:
        until_it_answers(f"http://127.0.0.1:{offline['LLM_PORT']}")
        server.terminate()
        output, _ = server.communicate(timeout=LIMIT_S)
    modules = set(output.splitlines())
    assert not modules & {"torch", "transformers"}


def test_uvicorn_finds_the_app(offline: dict[str, str]) -> None:
    with process("-m", "uvicorn", "app.main:app", "--port", offline["LLM_PORT"], **offline) as server:
        url = f"http://127.0.0.1:{offline['LLM_PORT']}"
        until_it_answers(url)
        assert httpx.get(f"{url}/api/v1/health", **LOCAL).json()["status"] in (
            "loading",
            "unavailable",
        )
        server.terminate()
        output, _ = server.communicate(timeout=LIMIT_S)
    assert "Traceback" not in output


def test_server_ends_when_its_reloader_is_killed(with_fork_server: dict[str, str]) -> None:
    command = ["-m", "uvicorn", "app.main:app", "--reload", "--reload-dir", "app/api"]
    with process(*command, "--port", with_fork_server["LLM_PORT"], **with_fork_server) as reloader:
        url = f"http://127.0.0.1:{with_fork_server['LLM_PORT']}"
        until_it_answers(url)
        reloader.kill()
        reloader.communicate(timeout=LIMIT_S)  # until the last of its children has closed its output
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, **LOCAL)


def test_signal_ends_an_open_stream_with_one_error_event() -> None:
    port = free_port()
    with (
        process("-c", FAKE_SERVER, str(port), "") as server,
        httpx.Client(**LOCAL) as client,
    ):
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url)
        body = {"message": "until closed", "stream": True}
        with client.stream("POST", f"{url}/api/v1/chat", json=body) as reply:
            lines = reply.iter_lines()
            assert next(lines) == "event: start"
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert [line for line in rest if line.startswith("event")] == ["event: delta", "event: error"]
        assert any('"code":"shutting_down"' in line for line in rest)
        assert server.wait(LIMIT_S) in (0, -signal.SIGTERM)


def test_hangup_reads_the_keys_again_and_keeps_them_if_the_file_is_wrong(tmp_path: Path) -> None:
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text("alice hunter2-a\nbob hunter2-b\n")
    with (
        process("-c", FAKE_SERVER, str(port), str(keys)) as server,
        httpx.Client(**LOCAL) as client,
    ):
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url)

        def is_accepted(key: str) -> bool:
            reply = client.get(f"{url}/api/v1/chat/models", headers={"Authorization": f"Bearer {key}"})
            return reply.status_code == 200

        def reload_until(key: str, content: str) -> None:
            keys.write_text(content)
            server.send_signal(signal.SIGHUP)
            wait_for(lambda: is_accepted(key), "the server to read the keys again")

        assert is_accepted("hunter2-a") and is_accepted("hunter2-b")
        reload_until("hunter2-c", "carol hunter2-c\nbob hunter2-b\n")
        assert is_accepted("hunter2-b") and not is_accepted("hunter2-a")
        keys.write_text("carol hunter2-c\ncarol hunter2-d\n")
        server.send_signal(signal.SIGHUP)
        log = log_until("The API keys stay as they were.", server)
        assert is_accepted("hunter2-c") and is_accepted("hunter2-b") and not is_accepted("hunter2-d")
        server.terminate()
        log += server.communicate(timeout=LIMIT_S)[0]
    assert log.count("LLM_API_KEYS_FILE, line 2: its name is also that of LLM_API_KEYS_FILE, line 1.") == 1
    assert "hunter2" not in log and "Traceback" not in log


def test_server_ends_when_its_stdin_closes(with_fork_server: dict[str, str]) -> None:
    with process("-m", "app", "--exit-on-stdin-close", **with_fork_server) as server:
        until_it_answers(f"http://127.0.0.1:{with_fork_server['LLM_PORT']}")
        assert server.stdin is not None
        server.stdin.close()
        server.wait(LIMIT_S)
