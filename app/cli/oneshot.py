"""Owns one message and its answer, for pipes and scripts: what the message is, and what comes out."""

import io
import json
import sys
from typing import Any

from pydantic import ValidationError

from app.cli.conversation.session import Session
from app.cli.errors import ClientError, Refused
from app.cli.input.interrupts import Interrupts
from app.cli.options import Options
from app.cli.output.terminal import Terminal, TerminalStyle
from app.models.schemas import ChatRequest


class InputError(ClientError):
    """What was given is no message."""


def read_message(options: Options, is_piped: bool) -> str | None:
    """`-p`, and below it standard input where that is piped in; None if the user is to be asked. It is read
    before there is a server: a bad one starts none.

    Raises:
        InputError: it is no message.
    """
    if options.message is None and not is_piped:
        if options.json:
            raise InputError("--json needs a message.", "Give it with -p, or pipe it in.")
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
            raise InputError("Standard input is empty.", hint) from None
        raise InputError(why_unsent(error)) from None
    return text


def why_unsent(error: ValidationError) -> str:
    problem = error.errors()[0]
    what = "system prompt" if "system_prompt" in problem["loc"] else "message"
    return f"The {what} cannot be sent: {problem['msg'].removeprefix('Value error, ')}."


class OneShot:
    """The answer goes to standard output as it comes, or as one JSON object when it is over; beside that
    object only a problem is told."""

    def __init__(self, terminal: Terminal, options: Options, interrupts: Interrupts) -> None:
        self._asked_in = terminal
        self._options = options
        self._interrupts = interrupts
        self._session: Session | None = None
        self.terminal = _unseen() if options.json else terminal

    async def answer(self, session: Session, message: str) -> None:
        self._session = session
        await session.refresh_models()
        if self._options.model not in (None, session.current_model):
            await self._interrupts.run(session.switch(self._options.model))
        if self._options.resume is not None:
            from app.cli.commands.conversation import go_on

            await go_on(session, self._options.resume)
        await self._interrupts.run(session.send(message))
        self._print({})

    def interrupted(self) -> None:
        self._print({})

    def failed(self, error: ClientError) -> None:
        code = error.code if isinstance(error, Refused) else type(error).__name__
        self._print({"error": {"code": code, "message": error.message, "hint": error.hint}})
        self._asked_in.problem(error)

    def _print(self, more: dict[str, Any]) -> None:  # Any: what JSON holds
        if self._options.json:
            self._asked_in.out.write(json.dumps(self._told() | more, ensure_ascii=False) + "\n")
            self._asked_in.out.flush()

    def _told(self) -> dict[str, Any]:  # Any: what JSON holds
        """Of an answer that was cut, as far as it came."""
        reply = None if self._session is None else self._session.last_reply
        if reply is None or reply.start is None:
            return {}
        thoughts = {"thinking": reply.thoughts} if reply.thoughts else {}
        if reply.done is not None:
            return reply.done.model_dump(mode="json") | thoughts
        message = reply.message
        return {
            "response": message.content,
            "model_name": message.model_name,
            "finish_reason": message.finish_reason,
        } | thoughts


def _unseen() -> Terminal:
    look = TerminalStyle(plain=True, color=False, symbols=False)
    return Terminal(look, out=io.StringIO(), err=io.StringIO())
