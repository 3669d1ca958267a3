"""Writes a request in the terms of OpenAI's API; refuses fields that the remote engine does not support."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from app.core.errors import InvalidRequest
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage, Grammar, SamplingParams, Tool, ToolUse
from app.engine.remote.kinds import LLAMA_SERVER, OPENAI_FIELDS, SGLANG, TGI, EngineKind

Body = dict[str, Any]  # Any: JSON values

_NEUTRAL = msgspec.structs.asdict(SamplingParams(temperature=1.0))
_HAS_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # on the other server


def request_body(model: str, model_input: ModelInput, sampling: SamplingParams, kind: EngineKind) -> Body:
    """Returns the body of a streamed request: of a chat, or of a completion if the input is a raw prompt.

    Raises:
        InvalidRequest: the remote engine would ignore a field that changes the reply. The message names it.
    """
    body: Body = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _sampling(sampling, kind, is_chat=model_input.messages is not None)
    _refuse_missing(model_input, kind)
    if model_input.messages is None:
        return body | {"prompt": model_input.prompt}
    return body | chat_fields(model_input, kind) | _grammar(model_input.grammar, kind)


def chat_fields(model_input: ModelInput, kind: EngineKind) -> Body:
    """Returns the fields that determine the prompt of a chat."""
    fields: Body = {"messages": [_message(message) for message in model_input.messages or ()]}
    if model_input.continue_final_message:
        fields |= kind.continues or {}
    if model_input.tool_use is not None:
        fields |= _tools(model_input.tool_use, kind)
    return fields | _thinking(model_input, kind)


def _thinking(model_input: ModelInput, kind: EngineKind) -> Body:
    is_hint = model_input.think is None and model_input.wants_thinking
    if is_hint and kind.takes_effort_as_hint:
        return {"reasoning_effort": "medium"}
    thinks = True if is_hint else model_input.think
    if thinks is not None and kind.thinking == "template":
        return {"chat_template_kwargs": {"enable_thinking": thinks}}
    if thinks is False and kind.thinking == "effort":
        return {"reasoning_effort": "none"}  # without it, models think that can
    return {}


def _sampling(sampling: SamplingParams, kind: EngineKind, *, is_chat: bool) -> Body:
    given = msgspec.structs.asdict(sampling)
    names = {name: name for name in OPENAI_FIELDS if name not in kind.refused} | dict(kind.sampling)
    body: Body = {}
    if (max_tokens := given.pop("max_tokens")) == 0:
        raise _cannot("max_tokens: 0", kind)
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if (top_logprobs := given.pop("top_logprobs")) is not None:
        if "top_logprobs" in kind.refused:
            raise _cannot("top_logprobs", kind)
        top = max(top_logprobs, kind.least_top_logprobs)
        body |= {"logprobs": True, "top_logprobs": top} if is_chat else {"logprobs": top}
    left_to_engine = given.pop("left_to_engine")
    for field, value in given.items():
        if field in left_to_engine:
            continue
        is_set = value != _NEUTRAL[field]
        if is_set and field not in names:
            raise _cannot(field, kind)
        if field in names and (is_set or field in _HAS_DEFAULTS):
            body[names[field]] = value
    return body


def _refuse_missing(model_input: ModelInput, kind: EngineKind) -> None:
    if model_input.prompt_logprobs:
        raise _cannot("prompt_logprobs", kind)
    if model_input.thinking_budget is not None and not model_input.is_budget_hint:
        raise _cannot("thinking_budget", kind)
    if model_input.think is not None and kind.thinking is None:
        raise _cannot("think", kind)
    if model_input.continue_final_message and kind.continues is None:
        raise _cannot("continuing a reply", kind)
    if model_input.tool_use is not None and not kind.has_tools:
        raise _cannot("tools", kind)
    if isinstance(model_input.prompt, tuple) and not kind.takes_token_ids:
        raise _cannot("a prompt of token ids", kind)
    if model_input.messages is None and (model_input.grammar or model_input.tool_use):
        raise _cannot("a form of the reply to a raw prompt", kind)


def _grammar(grammar: Grammar | None, kind: EngineKind) -> Body:
    if grammar is None:
        return {}
    if grammar.kind not in kind.grammars:
        raise _cannot(f"response_format of the type {grammar.kind}", kind)
    match grammar.kind:
        case "json_schema" if kind is TGI:
            return {"response_format": {"type": "json", "value": json.loads(grammar.source)}}
        case "json_schema":
            schema = {"name": "reply", "schema": json.loads(grammar.source), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json":
            return {"response_format": {"type": "json_object"}}
        case "regex" if kind is TGI:
            return {"response_format": {"type": "regex", "value": grammar.source}}
        case "regex" if kind is SGLANG:
            return {"regex": grammar.source}
        case "regex":
            return {"structured_outputs": {"regex": grammar.source}}
        case _ if kind.name == LLAMA_SERVER.name:
            choices = (json.dumps(choice, ensure_ascii=False) for choice in json.loads(grammar.source))
            return {"grammar": "root ::= " + " | ".join(choices)}
        case _:
            return {"structured_outputs": {"choice": json.loads(grammar.source)}}


def _message(message: ChatMessage) -> Body:
    body: Body = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return body


def _tools(tool_use: ToolUse, kind: EngineKind) -> Body:
    if not tool_use.is_parallel and "parallel_tool_calls" in kind.refused:
        raise _cannot("parallel_tool_calls", kind)
    if tool_use.choice == "none" and kind.tool_choice == "none":
        return {}
    single = {} if tool_use.is_parallel else {"parallel_tool_calls": False}
    tools: Sequence[Tool] = tool_use.tools
    choice: Body = {} if tool_use.choice == "auto" else {"tool_choice": tool_use.choice}
    if (name := tool_use.name) is not None and kind.tool_choice == "no names":
        tools, choice = [tool for tool in tools if tool.name == name], {"tool_choice": "required"}
    elif name is not None:
        choice = {"tool_choice": {"type": "function", "function": {"name": name}}}
    if choice and kind.tool_choice == "none":
        raise _cannot("tool_choice", kind)
    return {"tools": [{"type": "function", "function": _function(tool)} for tool in tools]} | choice | single


def _function(tool: Tool) -> Body:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": json.loads(tool.parameters)}


def _cannot(what: str, kind: EngineKind) -> InvalidRequest:
    return InvalidRequest(
        f"{what}: this model's remote engine ({kind.name}) does not support it.",
        hint="Leave it out, or choose a model that this server runs itself.",
    )
