"""Counts the tokens of a prompt with the remote engine's own route, if it has one."""

import json

from app.core.deadline import Deadline
from app.core.errors import InvalidRequest, ModelUnavailable
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage
from app.engine.remote.connection import UpstreamConnection
from app.engine.remote.kinds import EngineKind
from app.engine.remote.request_body import chat_fields


async def count_remotely(
    connection: UpstreamConnection, kind: EngineKind, model: str, model_input: ModelInput, deadline: Deadline
) -> int:
    """Returns the number of tokens.

    Raises:
        InvalidRequest: this kind of server cannot count, or refuses the prompt.
        ModelUnavailable: it does not answer, or not with a number.
    """
    try:
        return await _count(connection, kind, model, model_input, deadline)
    except (KeyError, TypeError, ValueError):
        raise ModelUnavailable(f"The remote engine of {connection.model_name} sent no count.") from None


async def _count(
    connection: UpstreamConnection, kind: EngineKind, model: str, model_input: ModelInput, deadline: Deadline
) -> int:
    if isinstance(model_input.prompt, tuple):
        return len(model_input.prompt)
    match kind.counting:
        case "tokenize":
            answer = await connection.post(
                "/tokenize", {"model": model, **_prompt(model_input, kind)}, deadline
            )
            return int(answer["count"])
        case "apply-template":
            text = model_input.prompt
            if model_input.messages is not None:
                answer = await connection.post("/apply-template", chat_fields(model_input, kind), deadline)
                text = answer["prompt"]
            body = {"content": text, "add_special": True, "parse_special": model_input.messages is not None}
            return len((await connection.post("/tokenize", body, deadline))["tokens"])
        case "count":
            answer = await connection.post("/api/v1/count", _native(model, model_input), deadline)
            return int(answer["tokens"])
        case None:
            raise InvalidRequest(f"This model's remote engine ({kind.name}) does not count tokens.")


def _prompt(model_input: ModelInput, kind: EngineKind) -> dict[str, object]:
    if model_input.messages is None:
        return {"prompt": model_input.prompt}
    return chat_fields(model_input, kind)


def _native(model: str, model_input: ModelInput) -> dict[str, object]:
    """Returns the request in the terms of this program's own API."""
    body: dict[str, object] = {"model_name": model}
    if model_input.messages is None:
        return body | {"prompt": model_input.prompt}
    body["messages"] = [_message(message) for message in model_input.messages]
    if model_input.think is not None:
        body["think"] = model_input.think
    if model_input.tool_use is not None:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
            for tool in model_input.tool_use.tools
        ]
    return body


def _message(message: ChatMessage) -> dict[str, object]:
    body: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]
    return body
