"""Checks grammars of clients in a process that is killed when it exceeds its limits of time or memory."""

from app.engine.tokenization.template_sandbox import SandboxProcess

TIME_LIMIT_S = 1.0  # to compile one grammar
_KILL_AFTER = 2  # times the limit; by then the process has ended itself, if the system has timers


class GrammarOutOfBounds(Exception):
    """The grammar took too long to compile, or too much memory."""


class GrammarSandbox:
    """Starts the process when it is first needed, and again after it was killed. It is not thread-safe."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._process: SandboxProcess | None = None

    def check(self, grammar: str) -> str:
        """Returns what is wrong with a grammar in llguidance's form; an empty text if nothing is.

        Raises:
            GrammarOutOfBounds.
        """
        if self._process is None or not self._process.is_alive:
            self._process = SandboxProcess()
        request = {"grammar": grammar, "time_limit_s": self._time_limit_s}
        answer = self._process.ask(request, _KILL_AFTER * self._time_limit_s)
        if answer is None:
            self.close()
            raise GrammarOutOfBounds
        return answer.get("refused", "")

    def close(self) -> None:
        """Ends the process. A later check starts another one."""
        if self._process is not None:
            self._process.close()
            self._process = None
