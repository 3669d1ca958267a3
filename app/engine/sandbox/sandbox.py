"""Runs process.py, and kills it when it exceeds its limits of time, memory or length.

Only a separate process can be limited while the engine keeps running: Python cannot stop a loop inside C in
another thread, and a memory limit would apply to the engine's allocations as well.
"""

import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from app.engine.sandbox import process
from app.engine.sandbox.process import SandboxAnswer

_START_LIMIT_S = 60.0  # for the process to start while the machine is busy loading a model
_KILL_AFTER = 2  # times the limit; by then the process has ended itself, if the system has timers


class Sandbox:
    """Starts the process when it is first needed, and again after it was killed. It is not thread-safe.

    The process ends with `close`, or when this object is garbage-collected.
    """

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._process: _SandboxProcess | None = None

    def start(self) -> None:
        """Starts the process without waiting for it, so that it is ready for the first request."""
        self._running()

    def ask(self, **request: Any) -> SandboxAnswer | None:  # any JSON
        """Returns the answer; None if the process was killed or crashed meanwhile."""
        limit_s = self._time_limit_s
        answer = self._running().ask(request | {"time_limit_s": limit_s}, _KILL_AFTER * limit_s)
        if answer is None:
            self.close()
        return answer

    def close(self) -> None:
        """Ends the process. A later request starts another one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _running(self) -> "_SandboxProcess":
        if self._process is None or not self._process.is_alive:
            self.close()
            self._process = _SandboxProcess()
        return self._process


class _SandboxProcess:
    """One running process.py. It ends with `close`, or when this object is garbage-collected."""

    def __init__(self) -> None:
        # With -P, the script cannot import the modules beside it by their plain names.
        command = (sys.executable, "-P", str(Path(process.__file__)))
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._is_ready = False
        self.close = weakref.finalize(self, _end, self._popen)

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, request: dict[str, Any], time_limit_s: float) -> SandboxAnswer | None:  # any JSON
        """Returns the answer; None if the process was killed or crashed meanwhile."""
        if not self._is_ready and self._answer(b"", _START_LIMIT_S) is None:
            return None
        self._is_ready = True
        return self._answer(json.dumps(request).encode() + b"\n", time_limit_s)

    def _answer(self, request: bytes, time_limit_s: float) -> SandboxAnswer | None:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        watchdog = threading.Timer(time_limit_s, self._popen.kill)
        watchdog.start()
        try:
            self._popen.stdin.write(request)
            self._popen.stdin.flush()
            line = self._popen.stdout.readline()
        except BrokenPipeError:
            return None
        finally:
            watchdog.cancel()
            watchdog.join()
        answer: SandboxAnswer | None = json.loads(line) if line.endswith(b"\n") else None
        return answer


def _end(popen: "subprocess.Popen[bytes]") -> None:
    popen.kill()
    popen.communicate()  # also closes the pipes
