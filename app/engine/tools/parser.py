"""Finds tool calls in a reply's text, which arrives in pieces. Streams and whole replies use it alike."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from app.engine.ipc.messages import ToolCallRef
from app.engine.replies.parts import Part
from app.engine.replies.stop_strings import partial_match_length
from app.engine.tools.reader import Cut, NotACall, Reader, Reading

Schemas = Mapping[str, Any]  # JSON schemas of the declared tools' parameters, by the tool's name


class CallSink(Protocol):
    """Takes the calls that a form reads."""

    @property
    def schemas(self) -> Schemas: ...

    def begin(self, name: str) -> None:
        """A call of this tool begins. Raises NotACall if no such tool was declared."""

    def add(self, arguments: str) -> None:
        """More of the arguments' JSON of the call that began last."""

    def end(self) -> None:
        """The call is complete."""


class CallForm(Protocol):
    """How a family of models writes calls."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The texts with which calls begin; an empty one if they may begin a reply without a mark."""

    @property
    def visible(self) -> tuple[str, ...]:
        """The special tokens that calls are made of, and that the text must therefore have."""

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        """Reads the calls after the mark."""

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        """Returns the Lark grammar of a reply that is nothing but calls. A mark is written `MARK(text)`."""


class ToolCallParser:
    """Turns parts of text into parts of text and of tool calls.

    What begins like a call stays text until the name of a declared tool and its arguments begin. White space
    beside calls is left out.
    """

    def __init__(
        self, form: CallForm, schemas: Schemas, new_id: Callable[[], str], *, is_parallel: bool = True
    ) -> None:
        """`is_parallel` False means that the reply ends with its first call."""
        self.schemas = schemas
        self._form = form
        self._new_id = new_id
        self._is_parallel = is_parallel
        self._reader = Reader()
        self._origin: int | None = None  # position in the reply of the reader's first character
        self._marks = tuple(mark for mark in form.marks if mark)
        self._may_begin_bare = "" in form.marks
        self._is_after_call = False
        self._calls = 0
        self._ref: ToolCallRef | None = None  # of the call that is being read
        self._kept_from = 0  # where the text begins that stays text if no call begins
        self._out: list[Part] = []
        self._reading = self._run()

    @property
    def is_done(self) -> bool:
        """Whether the reply must end, because it has the only call that it may have."""
        return not self._is_parallel and self._calls > 0

    def push(self, part: Part) -> list[Part]:
        """Returns the parts that have become final with this part of the reply's text."""
        if self._origin is None:
            self._origin = part.start
        self._reader.text += part.text
        return self._go_on()

    def flush(self) -> list[Part]:
        """Returns the rest. Call it after the last part."""
        self._reader.is_final = True
        return self._go_on()

    # CallSink

    def begin(self, name: str) -> None:
        if name not in self.schemas or self.is_done:
            raise NotACall
        self._ref = ToolCallRef(self._calls, self._new_id(), name)
        self.add("")

    def add(self, arguments: str) -> None:
        assert self._ref is not None, "arguments follow the beginning of a call"
        place = (self._origin or 0) + self._reader.at
        self._out.append(Part("tool_call", arguments, place, place, self._ref))

    def end(self) -> None:
        self._ref = None
        self._calls += 1
        self._is_after_call = True
        self._kept_from = self._reader.at

    # Reading

    def _go_on(self) -> list[Part]:
        next(self._reading, None)
        out, self._out = self._out, []
        return [part for part in out if part.text or part.call is not None]

    def _run(self) -> Reading[None]:
        while not self.is_done:
            mark = yield from self._find_mark()
            if mark is None:
                return
            try:
                yield from self._form.read(self._reader, self, mark)
            except NotACall:
                self._keep(mark)
            except Cut:
                if self._ref is None:
                    self._emit(self._kept_from, len(self._reader.text))
                return

    def _find_mark(self) -> Reading[str | None]:
        """Reads text up to the next mark, and the mark. Returns None at the end of the text."""
        reader = self._reader
        while True:
            rest = reader.text[reader.at :]
            text = rest.lstrip()
            if self._may_begin_bare and text.startswith(("{", "[")):
                self._may_begin_bare = False
                self._kept_from = reader.at
                reader.at += len(rest) - len(text)
                return ""
            places = [(place, mark) for mark in self._marks if (place := rest.find(mark)) >= 0]
            if places:
                place, mark = min(places)
                self._emit(reader.at, reader.at + len(rest[:place].rstrip()))
                self._kept_from = reader.at + len(rest[:place].rstrip())
                reader.at += place + len(mark)
                return mark
            self._may_begin_bare = self._may_begin_bare and not text
            self._pass_on(rest)
            if reader.is_final:
                return None
            yield

    def _pass_on(self, rest: str) -> None:
        """Emit the text that is certainly no part of a mark, nor white space before one."""
        reader = self._reader
        if reader.is_final:
            end = 0 if self._is_after_call and not rest.strip() else len(rest)
        else:
            end = len(rest[: len(rest) - partial_match_length(rest, self._marks)].rstrip())
        self._emit(reader.at, reader.at + end)
        reader.at += end

    def _keep(self, mark: str) -> None:
        """Let the text since the mark, or since the last call, be text."""
        reader = self._reader
        if self._ref is not None:  # a call is never taken back
            self.end()
        elif self._kept_from < reader.at:
            after_mark = reader.text.find(mark, self._kept_from) + len(mark) if mark else self._kept_from
            reader.at = max(after_mark, self._kept_from)
            self._emit(self._kept_from, reader.at)

    def _emit(self, begin: int, end: int) -> None:
        text = self._reader.text[begin:end]
        if text:
            self._is_after_call = False
            origin = self._origin or 0
            self._out.append(Part("text", text, origin + begin, origin + end))
