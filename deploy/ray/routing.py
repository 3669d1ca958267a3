"""Finds out to which conversation a request belongs and which model it asks for, and who has that model."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.datastructures import Headers

_CONVERSATION = re.compile(r"(?:conv|resp)_([0-9a-f]{32})")  # a response's id begins with its conversation's
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Reference(msgspec.Struct):
    id: str | None = None


class RoutedBody(msgspec.Struct):
    """The fields of all APIs that name a conversation or a model."""

    conversation_id: str | None = None
    conversation: str | _Reference | None = None
    previous_response_id: str | None = None
    model_name: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router is told about a request. `session` is the id of a conversation, also of a new one."""

    session: str
    model: str | None


def routing_of(headers: Headers, path: str, body: bytes) -> Routing:
    """Returns the conversation that the header X-Session-Id, the path or the body names, in this order.

    A request that names none gets a new id. If it begins a conversation, this becomes the conversation's id.
    """
    fields = _parse(body)
    session = _in_header(headers.getlist("x-session-id")) or _first_id(path, *_references(fields))
    return Routing(
        session or f"conv_{secrets.token_hex(16)}",
        fields.model if fields.model_name is None else fields.model_name,
    )


def _parse(body: bytes) -> RoutedBody:
    """Returns the fields; none of them if the body is not as the application expects it."""
    try:
        return msgspec.json.decode(body, type=RoutedBody)
    except msgspec.MsgspecError:
        return RoutedBody()


def _references(fields: RoutedBody) -> tuple[str | None, ...]:
    conversation = fields.conversation
    named = conversation.id if isinstance(conversation, _Reference) else conversation
    return fields.conversation_id, named, fields.previous_response_id


def _first_id(*texts: str | None) -> str | None:
    found = (_CONVERSATION.search(text) for text in texts if text is not None)
    return next((f"conv_{match[1]}" for match in found if match is not None), None)


def _in_header(values: list[str]) -> str | None:
    """Returns the session of the header, in one spelling for all ways to write a conversation's id."""
    if len(values) != 1 or not values[0] or not values[0].isascii():  # Ray could not read it
        return None
    if _UUID.fullmatch(values[0]):
        return f"conv_{values[0].replace('-', '').lower()}"
    return values[0]


class RoutedReplica(Protocol):
    """What the router knows of a replica."""

    @property
    def routing_stats(self) -> Mapping[str, Any]:  # Any: as Ray's
        """The last answer of Replica.record_routing_stats; empty before the first one."""


R = TypeVar("R", bound=RoutedReplica)


def by_model(ranks: Sequence[list[R]], model: str) -> list[list[R]]:
    """Returns the same ranks of replicas, those that have the model first."""
    return sorted(ranks, key=lambda rank: not any(has_model(replica, model) for replica in rank))


def has_model(replica: RoutedReplica, model: str) -> bool:
    return model in replica.routing_stats.get("models", ())
