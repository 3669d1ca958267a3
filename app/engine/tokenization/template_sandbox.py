"""Renders chat templates in a process that is killed when it exceeds its limits of time, memory or length.

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

from app.engine.tokenization import template_process

TIME_LIMIT_S = 2.0  # for one rendering
_START_LIMIT_S = 60.0  # for the process to start while the machine is busy loading a model
_KILL_AFTER = 2  # times the limit; by then the process has ended itself, if the system has timers


class TemplateOutOfBounds(Exception):
    """The template took too long, used too much memory, or made too long a text."""


class TemplateRefused(Exception):
    """The template raised an error. The message is the template's own message, or empty."""


class TemplateSandbox:
    """Starts the process when it is first needed, and again after it was killed. It is not thread-safe.

    The process ends with `close`, or when this object is garbage-collected.
    """

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._process: SandboxProcess | None = None

    def start(self) -> None:
        """Starts the process without waiting for it, so that it is ready for the first template."""
        if self._process is None or not self._process.is_alive:
            self.close()
            self._process = SandboxProcess()

    def render(self, template: str, variables: dict[str, Any]) -> str:  # any JSON
        """Returns the rendered template.

        Raises:
            TemplateOutOfBounds, TemplateRefused.
        """
        self.start()
        assert self._process is not None
        request = {"template": template, "variables": variables, "time_limit_s": self._time_limit_s}
        answer = self._process.ask(request, _KILL_AFTER * self._time_limit_s)
        if answer is None:
            self.close()
            raise TemplateOutOfBounds
        if "refused" in answer:
            raise TemplateRefused(answer["refused"])
        if "text" not in answer:
            raise TemplateOutOfBounds
        return answer["text"]

    def close(self) -> None:
        """Ends the process. A later rendering starts another one."""
        if self._process is not None:
            self._process.close()
            self._process = None


class SandboxProcess:
    """One running template_process.py. It ends with `close`, or when this object is garbage-collected."""

    def __init__(self) -> None:
        # With -P, the script cannot import the modules beside it by their plain names.
        command = (sys.executable, "-P", str(Path(template_process.__file__)))
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._is_ready = False
        self.close = weakref.finalize(self, _end, self._popen)

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def ask(
        self, request: dict[str, Any], time_limit_s: float
    ) -> template_process.SandboxAnswer | None:  # any JSON
        """Returns the answer; None if the process was killed or crashed meanwhile."""
        if not self._is_ready and self._answer(b"", _START_LIMIT_S) is None:
            return None
        self._is_ready = True
        return self._answer(json.dumps(request).encode() + b"\n", time_limit_s)

    def _answer(self, request: bytes, time_limit_s: float) -> template_process.SandboxAnswer | None:
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
        answer: template_process.SandboxAnswer | None = json.loads(line) if line.endswith(b"\n") else None
        return answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()  # also closes the pipes
