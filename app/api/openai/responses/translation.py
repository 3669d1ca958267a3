"""Translates requests of /v1/responses into those of the native API, and into the input of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.api.openai.messages import content_text
from app.api.openai.responses.requests import (
    ChosenTools,
    FunctionCallItem,
    FunctionOutputItem,
    MessageItem,
    ReasoningItem,
    RequestItem,
    ResponsePrompt,
    ResponseRequest,
    ResponseTool,
)
from app.api.openai.sampling import problem_of, sampling_fields
from app.core.errors import InvalidRequest
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage
from app.models.branches import StoredBranch
from app.models.chat.engine_terms import append_message, chat_messages_of, grammar_of, tool_use_of
from app.models.chat.transcript import input_messages
from app.models.schemas import ChatRequest, InputMessage, SamplingFields, ToolCallPart, TurnFields

FieldValues = dict[str, Any]  # Any: as the models type them
ModelT = TypeVar("ModelT", bound=BaseModel)


def chat_request(request: ResponseRequest, place: tuple[str, str | None] | None) -> ChatRequest:
    """Returns the native request. `place` is the conversation, and the message that the new ones follow.

    Without a place, the system messages at the beginning become the system prompt of a new conversation.

    Raises:
        InvalidRequest: a field is wrong, or needs what this server does not support.
    """
    messages = messages_of(request.input)
    fields = turn_fields(request) | response_sampling(request).model_dump(exclude_none=True)
    if place is None:
        fields["system_prompt"], messages = split_system(messages)
    else:
        fields["conversation_id"], fields["parent_id"] = place
    if not messages and place is None:
        raise InvalidRequest("input: it has no message to answer.")
    fields |= {"messages": messages, "model_name": request.model, "background": bool(request.background)}
    return checked(ChatRequest, fields)


def split_system(messages: Sequence[InputMessage]) -> tuple[str, list[InputMessage]]:
    """Returns the text of the system messages at the beginning, and the messages after them."""
    count = next((at for at, each in enumerate(messages) if each.role != "system"), len(messages))
    return "\n\n".join(message.content for message in messages[:count]), list(messages[count:])


def response_sampling(request: ResponseRequest) -> SamplingFields:
    """Returns the sampling fields. Raises InvalidRequest if a number is out of its range."""
    top_logprobs = (request.top_logprobs or 0) if request.shows_logprobs else None
    return sampling_fields(request, request.max_output_tokens, top_logprobs)


def model_input(request: ResponsePrompt, branch: StoredBranch | None, owner: str) -> ModelInput:
    """Returns the input of a response that is not stored, which may follow a stored branch.

    Raises:
        InvalidRequest.
    """
    fields = checked(TurnFields, turn_fields(request))
    system = [fields.instructions or "", "" if branch is None else branch.conversation.system_prompt]
    ordered: list[ChatMessage] = []
    for text in filter(None, system):
        append_message(ordered, ChatMessage("system", text))
    stored = () if branch is None else branch.messages
    for message in (*stored, *input_messages(messages_of(request.input))):
        for chat_message in chat_messages_of(message):
            append_message(ordered, chat_message)
    if not ordered:
        raise InvalidRequest("input: it has no message to answer.")
    return ModelInput(
        tuple(ordered),
        continue_final_message=ordered[-1].role == "assistant" and not ordered[-1].tool_calls,
        think=None if fields.think == "auto" else fields.think,
        wants_thinking=fields.think == "auto",
        grammar=grammar_of(fields.response_format),
        tool_use=tool_use_of(fields),
        thinking_budget=fields.thinking_budget,
        scope=owner,
    )


def turn_fields(request: ResponsePrompt) -> FieldValues:
    """Returns the fields of a TurnFields that restrict the reply, without the sampling."""
    functions, choice = _tools(request)
    fields: FieldValues = {
        "instructions": request.instructions,
        "truncation": request.truncation or "disabled",
        "response_format": _format(request),
        "think": _think(request),
        "thinking_budget": request.thinking_budget,
    }
    if functions:
        parallel = request.parallel_tool_calls
        fields |= {"tools": functions, "tool_choice": choice, "parallel_tool_calls": parallel}
    return fields


def _format(request: ResponsePrompt) -> FieldValues | None:
    wanted = None if request.text is None else request.text.format
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema if wanted.type == "json_schema" else {"type": "object"}
    return {"type": "json_schema", "schema": schema}


def _think(request: ResponsePrompt) -> Any:  # Any: as TurnFields types it
    effort = None if request.reasoning is None else request.reasoning.effort
    if effort is None:
        return None
    return False if effort == "none" else "auto"


def _tools(request: ResponsePrompt) -> tuple[list[FieldValues], Any]:  # Any: as ToolFields types it
    """Returns the functions that may be called, and which must be. Tools of other types are left out.

    Raises:
        InvalidRequest: `tool_choice` demands a tool that the request does not have.
    """
    functions = [tool for tool in request.tools or () if tool.type == "function"]
    choice = request.tool_choice
    if isinstance(choice, ChosenTools):
        functions, choice = _chosen(functions, choice)
    if not functions and choice not in (None, "auto", "none"):
        raise InvalidRequest("tool_choice: it demands a call, but tools has no function.")
    return [_function(tool) for tool in functions], choice


def _chosen(functions: list[ResponseTool], choice: ChosenTools) -> tuple[list[ResponseTool], Any]:
    known = {tool.name for tool in functions}
    if choice.type == "allowed_tools":
        allowed = {tool.name for tool in choice.tools if tool.type == "function"}
        if not allowed <= known:
            raise InvalidRequest("tool_choice.tools: tools has no function of such a name.")
        return [tool for tool in functions if tool.name in allowed], choice.mode
    if choice.type != "function":
        raise InvalidRequest(f"tool_choice: this server has no tools of the type {choice.type!r}.")
    if choice.name not in known:
        raise InvalidRequest(f"tool_choice: tools has no function {choice.name!r}.")
    return functions, {"name": choice.name}


def _function(tool: ResponseTool) -> FieldValues:
    fields: FieldValues = {
        "name": tool.name,
        "description": tool.description or "",
        "strict": bool(tool.strict),
    }
    return fields if tool.parameters is None else fields | {"parameters": tool.parameters}


@dataclass(slots=True)
class _Assistant:
    """A message of the assistant, of items that follow each other."""

    thinking: str | None = None
    content: str = ""
    tool_calls: list[ToolCallPart] = field(default_factory=list)

    def is_begun(self) -> bool:
        return bool(self.thinking is not None or self.content or self.tool_calls)


def messages_of(items: Sequence[RequestItem], field_name: str = "input") -> list[InputMessage]:
    """Returns the items as messages. Reasoning, text and calls that follow each other are one.

    `field_name` is that of the request's field with the items.

    Raises:
        InvalidRequest: an item has an unknown type, or a part that is not text.
    """
    found: list[InputMessage] = []
    assistant = _Assistant()
    for index, item in enumerate(items):
        where = f"{field_name}[{index}]"
        if _ends(assistant, item):
            found += _finished(assistant)
            assistant = _Assistant()
        match item:
            case ReasoningItem():
                assistant.thinking = "".join(part.text for part in item.content or ()) or None
            case MessageItem(role="assistant"):
                assistant.content = content_text(item.content, where)
            case FunctionCallItem():
                call = ToolCallPart(id=item.call_id, name=item.name, arguments=item.arguments)
                assistant.tool_calls.append(call)
            case _:
                found.append(_other_message(item, where))
    return [*found, *_finished(assistant)]


def _ends(assistant: _Assistant, item: RequestItem) -> bool:
    """Returns whether the item does not go on with the assistant's message."""
    match item:
        case ReasoningItem():
            return assistant.is_begun()
        case MessageItem(role="assistant"):
            return bool(assistant.content or assistant.tool_calls)
        case FunctionCallItem():
            return False
    return True


def _finished(assistant: _Assistant) -> list[InputMessage]:
    if not assistant.is_begun():
        return []
    fields: FieldValues = {
        "role": "assistant",
        "content": assistant.content,
        "thinking": assistant.thinking,
        "tool_calls": assistant.tool_calls or None,
    }
    return [checked(InputMessage, fields)]


def _other_message(item: RequestItem, where: str) -> InputMessage:
    match item:
        case MessageItem():
            role = "user" if item.role == "user" else "system"
            return checked(InputMessage, {"role": role, "content": content_text(item.content, where)})
        case FunctionOutputItem():
            text = content_text(item.output, where)
            return checked(InputMessage, {"role": "tool", "tool_call_id": item.call_id, "content": text})
        case _:
            raise InvalidRequest(f"{where}: this server has no items of the type {item.type!r}.")


def checked(model: type[ModelT], fields: FieldValues) -> ModelT:
    """Returns the model with these fields. Raises InvalidRequest if one is wrong."""
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequest(problem_of(error)) from None
