"""Answers one message, for pipes and scripts, as text or as one JSON object."""

import codecs
import io
import json
import sys
from typing import Any

from pydantic import ValidationError

from app.cli.conversation.following import await_running_turn
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, InputError, Refused
from app.cli.input.interrupts import Interrupts
from app.cli.options import Options
from app.cli.output.terminal import Terminal, TerminalStyle
from app.models.schemas import ChatRequest

_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # controls that JSON need not escape


def read_message(options: Options, is_piped: bool) -> str | None:
    """Returns the message to send: `-p` followed by piped input. None if the user is to type messages.

    Called before a server is started, so that an invalid message starts none.

    Raises:
        InputError: there is no message, or it cannot be sent.
    """
    if options.message is None and not is_piped:
        if options.json:
            raise InputError("--json needs a message.", "Pass it with -p, or pipe it in.")
        return None
    try:
        piped = sys.stdin.buffer.read().decode() if is_piped else ""
        text = "\n\n".join(part for part in (options.message, piped) if part is not None and part.strip())
        ChatRequest(message=text, system_prompt=options.system)
    except UnicodeDecodeError:
        raise InputError("Standard input is not UTF-8 text.") from None
    except ValidationError as error:
        if not text:
            hint = "Pipe a message in, or run this in a terminal."
            empty = "Standard input is empty." if options.message is None else "The message is empty."
            raise InputError(empty, hint) from None
        raise InputError(invalid_message(error)) from None
    return text


def invalid_message(error: ValidationError) -> str:
    """Returns one line with the reason why a chat request is invalid."""
    problem = error.errors()[0]
    part = "system prompt" if "system_prompt" in problem["loc"] else "message"
    return f"The {part} cannot be sent: {problem['msg'].removeprefix('Value error, ')}."


class OneShot:
    """Prints the answer to standard output as it arrives, or as one JSON object at the end. With JSON, only
    errors are written as well."""

    def __init__(self, terminal: Terminal, options: Options, interrupts: Interrupts) -> None:
        self.terminal = _silent_terminal() if options.json else terminal
        self._stdout_terminal = terminal
        self._options = options
        self._interrupts = interrupts
        self._session: Session | None = None

    async def answer(self, session: Session, message: str) -> None:
        self._session = session
        await session.refresh_models()
        if self._options.model not in (None, session.current_model):
            await self._interrupts.run(session.switch(self._options.model))
        if self._options.resume is not None:
            from app.cli.commands.saving import load_and_continue

            await load_and_continue(session, self._options.resume)
            await self._interrupts.run(await_running_turn(session))
        await self._interrupts.run(session.send(message))
        self._print_json({})

    def print_interrupted(self) -> None:
        self._print_json({})

    def print_error(self, error: ClientError) -> None:
        code = error.code if isinstance(error, Refused) else type(error).__name__
        self._print_json({"error": {"code": code, "message": error.message, "hint": error.hint}})
        self._stdout_terminal.show_error(error)

    def _print_json(self, extra: dict[str, Any]) -> None:  # Any: JSON
        if self._options.json:
            file = self._stdout_terminal.out
            is_unicode = codecs.lookup(getattr(file, "encoding", None) or "utf-8").name.startswith("utf")
            printed = json.dumps(self._answer_fields() | extra, ensure_ascii=not is_unicode)
            file.write(printed.translate(_ESCAPED) + "\n")
            file.flush()

    def _answer_fields(self) -> dict[str, Any]:  # Any: JSON
        """Returns the answer; if it was cut off, the part that arrived."""
        answer = None if self._session is None else self._session.last_answer
        if answer is None or answer.start is None:
            return {}
        thinking = {"thinking": answer.thinking} if answer.thinking else {}
        if answer.done is not None:
            return answer.done.model_dump(mode="json") | thinking
        message = answer.message
        return {
            "response": message.content,
            "model_name": message.model_name,
            "finish_reason": message.finish_reason,
        } | thinking


def _silent_terminal() -> Terminal:
    style = TerminalStyle(plain=True, color=False, symbols=False)
    return Terminal(style, out=io.StringIO(), err=io.StringIO())
