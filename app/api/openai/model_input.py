"""Translates a chat completion request into the input of a model."""

import json
from collections.abc import Sequence
from typing import Literal

from app.api.openai.chat_requests import (
    AllowedFunctions,
    AllowedToolChoice,
    ChatCompletionRequest,
    FunctionTool,
    NamedToolChoice,
    SamplingRequest,
    StructuredOutputs,
)
from app.api.openai.messages import chat_messages
from app.api.openai.sampling import sampling_fields
from app.core.errors import InvalidRequest
from app.engine.backend import ModelInput
from app.engine.ipc.messages import Grammar, Tool, ToolUse
from app.models.schemas import SamplingFields


def chat_input(request: ChatCompletionRequest, owner: str) -> ModelInput:
    """Returns the input. If the last message is the assistant's, the reply continues it.

    Raises:
        InvalidRequest: a message is wrong, or the request needs what this server does not support.
    """
    messages = chat_messages(request.messages)
    is_continued = messages[-1].role == "assistant" and not messages[-1].tool_calls
    return ModelInput(
        messages,
        continue_final_message=is_continued,
        think=_think(request),
        wants_thinking=request.reasoning_effort not in (None, "none"),
        thinking_budget=request.thinking_budget,
        grammar=grammar_of(request),
        tool_use=_tool_use(request),
        scope=owner,
    )


def chat_sampling(request: ChatCompletionRequest) -> SamplingFields:
    """Returns the sampling fields.

    Raises:
        InvalidRequest: a number is out of its range.
    """
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidRequest("max_tokens, max_completion_tokens: send only one of them.")
    max_tokens = (
        request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    )
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return sampling_fields(request, max_tokens, top_logprobs)


def _think(request: ChatCompletionRequest) -> bool | None:
    """Returns whether the model must think or must not. An effort is a hint, which some models ignore."""
    arguments = request.chat_template_kwargs
    if arguments is not None and arguments.enable_thinking is not None:
        return arguments.enable_thinking
    return False if request.reasoning_effort == "none" else None


def grammar_of(request: SamplingRequest) -> Grammar | None:
    """Returns the grammar of the form that the text must have; None if the request demands none."""
    if request.structured_outputs is not None:
        return _structured_output(request.structured_outputs)
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.json_schema is None or response_format.type == "json_object":
        return Grammar("json_schema", json.dumps(response_format.object_schema or _ANY_OBJECT))
    return Grammar("json_schema", json.dumps(response_format.json_schema.json_schema))


def _structured_output(form: StructuredOutputs) -> Grammar:
    if form.regex is not None:
        return Grammar("regex", form.regex)
    if form.choice is not None:
        return Grammar("choice", json.dumps(form.choice))
    schema = _ANY_OBJECT if form.json_schema is None else form.json_schema
    return Grammar("json_schema", schema if isinstance(schema, str) else json.dumps(schema))


def _tool_use(request: ChatCompletionRequest) -> ToolUse | None:
    """Returns the functions among the tools. Tools of other types run elsewhere, and are left out.

    Raises:
        InvalidRequest: `tool_choice` demands a tool that the request does not have.
    """
    functions = [tool.function for tool in request.tools or () if tool.function is not None]
    choice = request.tool_choice or "auto"
    if isinstance(choice, AllowedToolChoice):
        functions, choice = _allowed(functions, choice.allowed_tools)
    name = choice.function.name if isinstance(choice, NamedToolChoice) else None
    if name is not None and all(function.name != name for function in functions):
        raise InvalidRequest(f"tool_choice: tools has no function {name!r}.")
    if not functions:
        if choice == "required":
            raise InvalidRequest("tool_choice: it demands a call, but tools has no function.")
        return None
    return ToolUse(
        tuple(
            Tool(
                function.name,
                function.description or "",
                json.dumps(function.parameters or _NO_PARAMETERS),
                bool(function.strict),
            )
            for function in functions
        ),
        "required" if isinstance(choice, NamedToolChoice) else choice,
        name,
        is_parallel=request.parallel_tool_calls is not False,
    )


def _allowed(
    functions: Sequence[FunctionTool], allowed: AllowedFunctions
) -> tuple[list[FunctionTool], Literal["auto", "required"]]:
    names = {tool.function.name for tool in allowed.tools}
    if not names <= {function.name for function in functions}:
        raise InvalidRequest("tool_choice.allowed_tools: tools has no function of such a name.")
    return [function for function in functions if function.name in names], allowed.mode


_ANY_OBJECT = {"type": "object"}
_NO_PARAMETERS = {"type": "object", "properties": {}}
