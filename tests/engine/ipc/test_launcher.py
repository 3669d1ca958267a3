"""Workers that are forked, and spawned where forking fails. Real processes; the model folders are empty."""

import asyncio
import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from importlib.util import find_spec
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.core.catalogue import BUILTIN_PATH
from app.core.config import Settings
from app.engine.ipc.child_process import ForkedProcess, worker_environment
from app.engine.ipc.forking.fork_server import UnsafeToFork, check_that_forking_is_safe
from app.engine.ipc.launcher import WITHOUT_THREADS, ForkServer, WorkerLauncher
from app.engine.ipc.messages import LoadFailed, WorkerSpec
from app.engine.ipc.process import WorkerProcess
from tests.waiting import LIMIT_S, until


@pytest.fixture
def launcher() -> Iterator[WorkerLauncher]:
    made = WorkerLauncher()
    yield made
    made.close()


@asynccontextmanager
async def worker(launcher: WorkerLauncher, folder: Path) -> AsyncIterator[WorkerProcess]:
    async with asyncio.timeout(LIMIT_S):
        process = await WorkerProcess.start(WorkerSpec(str(folder), "tiny"), launcher)
        try:
            yield process
        finally:
            await process.close(grace_s=0)


async def ended(process: WorkerProcess) -> WorkerProcess:
    async for _ in process.messages():
        pass
    return process


def test_forked_worker_reports_and_ends_like_a_spawned_one(
    fork_server: ForkServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def load(launcher: WorkerLauncher) -> tuple[str, str]:
        async with worker(launcher, tmp_path) as process:
            *_, last = [message async for message in process.messages()]
            assert isinstance(last, LoadFailed)
            return last.code, process.describe_end()

    assert asyncio.run(load(WorkerLauncher(fork_server.path))) == ("model_missing", "exit status 1")
    assert re.search(
        r"^\S+ \S+ WARNING app\.engine\.worker \[-\] loading tiny failed: ", capfd.readouterr().err, re.M
    )


def test_worker_that_has_not_connected_is_ended_at_once(tmp_path: Path, launcher: WorkerLauncher) -> None:
    async def close() -> str:
        async with worker(launcher, tmp_path) as process:
            await process.close(grace_s=1e6)
            return process.describe_end()

    assert asyncio.run(close()) == "signal 9"


def test_forked_worker_says_which_signal_ended_it(fork_server: ForkServer, tmp_path: Path) -> None:
    async def kill() -> str:
        async with worker(WorkerLauncher(fork_server.path), tmp_path) as process:
            os.kill(process.pid, signal.SIGKILL)
            return (await ended(process)).describe_end()

    assert asyncio.run(kill()) == "signal 9"


def test_forked_worker_ends_with_its_life_line(fork_server: ForkServer) -> None:
    async def cut() -> int | None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await ForkedProcess.start(fork_server.path, "ipc:///nowhere", theirs)
        ours.sendall(b'{"type": "WorkerSpec", "model_path": "/nowhere", "model_name": "tiny"}\n')
        ours.close()
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
        return process.exit_code

    assert asyncio.run(cut()) is not None


def test_worker_ends_with_its_life_line_though_its_heartbeats_are_unread(fork_server: ForkServer) -> None:
    async def cut() -> int | None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await ForkedProcess.start(fork_server.path, "ipc:///nowhere", theirs)
        ours.sendall(msgspec.json.encode(WorkerSpec(str(BUILTIN_PATH), "builtin", threads=1)) + b"\n")
        ours.settimeout(LIMIT_S)
        await asyncio.to_thread(ours.recv, 1, socket.MSG_PEEK)  # a heartbeat has come
        ours.close()  # which resets the connection, as the death of a server may
        async with asyncio.timeout(LIMIT_S / 2):
            await process.wait()
        return process.exit_code

    assert asyncio.run(cut()) == 0


@pytest.mark.parametrize("sent", [b"", b'{"type": "WorkerSpec", "model_pa'])
def test_worker_of_a_cancelled_load_ends_quietly(
    fork_server: ForkServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async def cancel() -> int | None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await ForkedProcess.start(fork_server.path, "ipc:///nowhere", theirs)
        ours.sendall(sent)
        ours.close()
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
        return process.exit_code

    assert asyncio.run(cancel()) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [b"caf\xe9", b"x" * 100_000], ids=["not UTF-8", "large"])
def test_worker_is_forked_with_any_environment_and_folder(
    fork_server: ForkServer, value: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number in range(3):
        monkeypatch.setenv(f"LLM_TEST_{number}", os.fsdecode(value))

    async def load() -> str:
        async with worker(WorkerLauncher(fork_server.path), tmp_path) as process:
            assert psutil.Process(process.pid).ppid() == fork_server.pid
            return (await ended(process)).describe_end()

    assert asyncio.run(load()) == "exit status 1"


def test_server_with_a_dead_fork_server_goes_on_and_starts_another(
    launcher: WorkerLauncher, tmp_path: Path
) -> None:
    async def kill_the_fork_server() -> tuple[int, int]:
        async with worker(launcher, tmp_path) as first:
            assert (server := launcher.fork_server) is not None
            server.kill()
            assert first.is_alive
            first.kill()
            assert (await ended(first)).describe_end() == "exit status unknown"
        async with worker(launcher, tmp_path) as second:
            os.kill(second.pid, signal.SIGKILL)
            assert (await ended(second)).describe_end() == "signal 9"
        assert launcher.fork_server is not None
        return server.pid, launcher.fork_server.pid

    before, after = asyncio.run(kill_the_fork_server())
    assert before != after


def test_forked_worker_runs_no_exit_handlers_of_its_fork_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = (
        "import atexit, os\n"
        "server = os.getpid()\n"
        "atexit.register(lambda: os.getpid() == server or os.abort())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(handler)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def load(launcher: WorkerLauncher) -> str:
        async with worker(launcher, tmp_path) as process:
            return (await ended(process)).describe_end()

    with closing(WorkerLauncher()) as launcher:
        assert asyncio.run(load(launcher)) == "exit status 1"


def test_worker_is_spawned_if_no_fork_server_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def load() -> str:
        async with worker(WorkerLauncher(tmp_path / "none"), tmp_path) as process:
            assert "app.engine.worker" in psutil.Process(process.pid).cmdline()
            return (await ended(process)).describe_end()

    assert asyncio.run(load()) == "exit status 1"
    assert f"LLM_FORK_SERVER={tmp_path / 'none'}" in caplog.text


SECRET_SETTINGS = [
    f"LLM_{name.upper()}"
    for name, setting in Settings.model_fields.items()
    if "SecretStr" in repr(setting.annotation)
]


def test_settings_have_secrets() -> None:
    assert {"LLM_API_KEY", "LLM_API_KEYS", "LLM_DATABASE_URL", "LLM_HF_TOKEN"} <= set(SECRET_SETTINGS)


@pytest.mark.parametrize(
    "name", [*SECRET_SETTINGS, "llm_hf_token", "Hf_Token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
)
def test_worker_does_not_inherit_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter2")
    assert "hunter2" not in worker_environment().values()


def test_threads_of_a_worker_spin_briefly_before_they_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert 0 < int(worker_environment()["GOMP_SPINCOUNT"]) <= 10_000
    assert worker_environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert worker_environment()["GOMP_SPINCOUNT"] == "7"


def test_policy_of_the_user_decides_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert worker_environment()["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in worker_environment()


def fork_server_pid(launcher: WorkerLauncher) -> int:
    assert launcher.fork_server is not None
    return launcher.fork_server.pid


def test_fork_server_that_dies_is_reaped_and_replaced_before_the_next_launch(
    launcher: WorkerLauncher,
) -> None:
    async def kill_the_fork_server() -> tuple[int, int]:
        launcher.start()
        keeping = asyncio.create_task(launcher.keep_fork_server())
        before = fork_server_pid(launcher)
        os.kill(before, signal.SIGKILL)
        await until(lambda: fork_server_pid(launcher) != before, "another fork server")
        keeping.cancel()
        await asyncio.wait((keeping,))
        return before, fork_server_pid(launcher)

    before, after = asyncio.run(kill_the_fork_server())
    assert not psutil.pid_exists(before)
    assert psutil.pid_exists(after)


class CountingSelector(selectors.DefaultSelector):
    """A selector that counts the turns of its event loop."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


def test_worker_of_a_stopped_fork_server_is_not_alive_when_it_has_ended(
    launcher: WorkerLauncher, tmp_path: Path
) -> None:
    selector = CountingSelector()

    async def kill_worker() -> int:
        async with worker(launcher, tmp_path) as process:
            assert selector.turns < 1000, "the event loop rests while the fork server starts"
            assert (server := launcher.fork_server) is not None
            os.kill(server.pid, signal.SIGSTOP)
            process.kill()
            await until(lambda: not process.is_alive, "the worker to end")
            turns = selector.turns
            assert (await ended(process)).describe_end() == "exit status unknown"
            return selector.turns - turns

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(kill_worker()) < 1000


def test_fork_server_that_does_not_answer_is_replaced(launcher: WorkerLauncher, tmp_path: Path) -> None:
    async def stop_the_fork_server() -> tuple[psutil.Process, str]:
        async with worker(launcher, tmp_path) as first:
            await ended(first)
        assert launcher.fork_server is not None
        stopped = psutil.Process(launcher.fork_server.pid)
        stopped.suspend()
        async with worker(launcher, tmp_path) as second:
            assert launcher.fork_server is not None
            assert psutil.Process(second.pid).ppid() == launcher.fork_server.pid
            return stopped, (await ended(second)).describe_end()

    stopped, end = asyncio.run(stop_the_fork_server())
    assert end == "exit status 1"
    assert not stopped.is_running()


def test_fork_server_ends_with_its_owner(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from app.engine.ipc.launcher import ForkServer\n"
        "print(ForkServer().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    owner = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=LIMIT_S)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(owner.stdout)).wait(LIMIT_S)


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_process_that_has_imported_pyarrow_forks() -> None:
    script = (
        "import pyarrow\n"
        "from app.engine.ipc.forking.fork_server import check_that_forking_is_safe\n"
        "check_that_forking_is_safe()\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], env=os.environ | WITHOUT_THREADS, check=True, timeout=LIMIT_S
    )


def test_process_with_several_threads_does_not_fork() -> None:
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait, args=(LIMIT_S,))
    thread.start()
    try:
        with pytest.raises(UnsafeToFork, match="threads"):
            check_that_forking_is_safe()
    finally:
        is_over.set()
        thread.join(LIMIT_S)
