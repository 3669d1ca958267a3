"""Collects one item of a response, and makes the events of its beginning, its growth and its end."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from app.api.openai.responses.events import ItemEvent, PieceEvent, ResponseStreamEvent
from app.api.openai.responses.ids import ItemKind, item_id
from app.api.openai.responses.items import (
    ItemStatus,
    LikelyToken,
    OutputItem,
    TextLogprob,
    call_item,
    reasoning_item,
    text_item,
)
from app.models.chat.reply import PartEvent
from app.models.schemas import LogprobEntry, ThinkingEvent, ToolCallEvent, ToolCallPart

ItemEnd = Literal["completed", "incomplete"]

_TEXTS = {"msg": "response.output_text", "rs": "response.reasoning_text"}
_ARGUMENTS = "response.function_call_arguments"


@dataclass(slots=True)
class OpenItem:
    """A message, a reasoning or a function call, while it grows."""

    kind: ItemKind
    id: str
    output_index: int
    call: ToolCallEvent | None = None
    status: ItemStatus = "in_progress"
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TextLogprob] = field(default_factory=list)

    @classmethod
    def begin(cls, event: PartEvent, message_id: str, index: int) -> "OpenItem":
        """Returns the item of this first event, which is still to be added."""
        kind = _kind(event)
        call = event if isinstance(event, ToolCallEvent) else None
        return cls(kind, item_id(kind, message_id, index), index, call)

    def takes(self, event: PartEvent) -> bool:
        """Returns whether the event goes on with this item."""
        if isinstance(event, ToolCallEvent):
            return self.call is not None and self.call.id == event.id
        return self.kind == _kind(event)

    def add(self, event: PartEvent) -> ResponseStreamEvent:
        """Adds a piece and returns its event."""
        if isinstance(event, ToolCallEvent):
            self.pieces.append(event.arguments)
            return self._call_event("delta", delta=event.arguments)
        self.pieces.append(event.text)
        if isinstance(event, ThinkingEvent):
            return self._text_event("delta", delta=event.text)
        logprobs = [_logprob(entry) for entry in event.logprobs or ()]
        self.logprobs += logprobs
        return self._text_event("delta", delta=event.text, logprobs=logprobs)

    def item(self) -> OutputItem:
        """Returns the item as it is now."""
        text = "".join(self.pieces)
        if self.call is not None:
            call = ToolCallPart(id=self.call.id, name=self.call.name, arguments=text)
            return call_item(self.id, call, self.status)
        if self.kind == "rs":
            return reasoning_item(self.id, text, self.status)
        return text_item(self.id, text, self.status, self.logprobs)

    def opening(self) -> Iterator[ResponseStreamEvent]:
        item = self.item()
        empty = item if item.type == "function_call" else item.model_copy(update={"content": []})
        yield ItemEvent(
            type="response.output_item.added",
            output_index=self.output_index,
            item=empty,
        )
        if self.call is None:
            yield self._part_event("added")

    def closing(self, status: ItemEnd) -> Iterator[ResponseStreamEvent]:
        self.status = status
        text = "".join(self.pieces)
        if self.call is not None:
            yield self._call_event("done", name=self.call.name, arguments=text)
        else:
            logprobs = {"logprobs": self.logprobs} if self.kind == "msg" else {}
            yield self._text_event("done", text=text, **logprobs)
            yield self._part_event("done")
        yield ItemEvent(
            type="response.output_item.done",
            output_index=self.output_index,
            item=self.item(),
        )

    def _part_event(self, moment: str) -> PieceEvent:
        item = self.item()
        assert item.type != "function_call", "a call has no parts"
        (part,) = item.content
        return self._event(f"response.content_part.{moment}", content_index=0, part=part)

    def _text_event(self, moment: str, **fields: object) -> PieceEvent:
        return self._event(f"{_TEXTS[self.kind]}.{moment}", content_index=0, **fields)

    def _call_event(self, moment: str, **fields: object) -> PieceEvent:
        return self._event(f"{_ARGUMENTS}.{moment}", **fields)

    def _event(self, kind: str, **fields: object) -> PieceEvent:
        return PieceEvent.model_validate(
            {
                "type": kind,
                "item_id": self.id,
                "output_index": self.output_index,
                **fields,
            }
        )


def _kind(event: PartEvent) -> ItemKind:
    match event:
        case ToolCallEvent():
            return "fc"
        case ThinkingEvent():
            return "rs"
    return "msg"


def _logprob(entry: LogprobEntry) -> TextLogprob:
    assert entry.logprob is not None, "only the first token of a prompt has none"
    top = [
        LikelyToken(token=other.token, bytes=other.bytes, logprob=other.logprob)
        for other in entry.top_logprobs
    ]
    return TextLogprob(token=entry.token, bytes=entry.bytes, logprob=entry.logprob, top_logprobs=top)
