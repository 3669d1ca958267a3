"""The tools of requests to one model: shown to its template, demanded by a grammar, found in its replies."""

import json
import re
import secrets
import string
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import ChatMessage, Grammar, Submit, Tool, ToolUse
from app.engine.tools.forms import MistralForm, form_of
from app.engine.tools.parser import Schemas, ToolCallParser
from app.engine.tools.strict_calls import answer_or_calls, text_with_calls

_MOST_TOOLS = 512
_NAME = re.compile(r"[\w.:/-]{1,128}")
_ANY = {"type": "object", "additionalProperties": True}  # the schema of arguments that need not validate
_MISTRAL_ID = 9  # characters, as its templates demand


class Toolbox:
    """Knows how one model writes calls, from its template and its added tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        ids = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
        self._form = form_of(template or "", tuple(ids))
        marks = [text for text in (*self._form.marks, *self._form.visible) if text]
        self.marks = {text: ids.get(text) for text in marks}  # their tokens; None: a mark is plain text
        self.mark_ids = frozenset(token_id for token_id in self.marks.values() if token_id is not None)
        self.visible_ids = frozenset(ids[text] for text in self._form.visible if text in ids)

    def schemas(self, use: ToolUse) -> Schemas:
        """Returns the parameters' schemas of the tools that may be called. Raises InvalidRequest."""
        _check(use)
        tools = [tool for tool in use.tools if use.name in (None, tool.name)]
        return {tool.name: _schema(tool) for tool in tools}

    def parser(self, use: ToolUse) -> ToolCallParser:
        """Returns the parser of one reply."""
        return ToolCallParser(self._form, self.schemas(use), self._new_id, is_parallel=use.is_parallel)

    def grammar(self, submit: Submit) -> Grammar | None:
        """Returns the grammar of a reply that must be a call, or whose calls must validate; else None.

        It has `marks` in it.
        """
        use = submit.tool_use
        if use is None or use.choice == "none":
            return None
        if use.choice == "auto" and use.name is None:
            return self._optional_grammar(use, submit.grammar)
        if submit.grammar is not None:
            raise InvalidRequest("a reply that must be a tool call cannot have a response_format as well")
        is_parallel = use.is_parallel and use.name is None
        return Grammar("lark", self._form.lark(self.schemas(use), is_parallel=is_parallel))

    def _optional_grammar(self, use: ToolUse, form: Grammar | None) -> Grammar | None:
        """Returns the grammar of text with calls, or of an answer in this form that may be calls instead.

        It returns None if no tool is strict, if the form is not JSON, which leaves no room for calls, and for
        models whose calls may begin without a mark.
        """
        has_form = form is not None and form.kind in ("json", "json_schema")
        is_strict = form is None and any(tool.is_strict for tool in use.tools)
        if "" in self._form.marks or not (has_form or is_strict):
            return None
        schemas = self.schemas(use)
        schemas = {tool.name: schemas[tool.name] if tool.is_strict else _ANY for tool in use.tools}
        mark = self._form.marks[0]
        lark = self._form.lark(schemas, is_parallel=use.is_parallel)
        if form is not None:
            return Grammar("lark", answer_or_calls(lark, form))
        return Grammar("lark", text_with_calls(lark, mark, is_token=self.marks[mark] is not None))

    def template_id(self, call_id: str) -> str:
        """Returns a call's id as the model's template takes it."""
        if not isinstance(self._form, MistralForm) or re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
            return call_id
        letters = re.sub(r"[^A-Za-z0-9]", "", call_id)
        return letters[-_MISTRAL_ID:].rjust(_MISTRAL_ID, "0")

    def _new_id(self) -> str:
        if isinstance(self._form, MistralForm):
            letters = string.ascii_letters + string.digits
            return "".join(secrets.choice(letters) for _ in range(_MISTRAL_ID))
        return f"call_{secrets.token_hex(12)}"


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:  # Any: JSON
    """Returns the tools in the form of OpenAI's API, which templates take."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": _schema(tool)},
        }
        for tool in tools
    ]


def message_variables(message: ChatMessage, toolbox: Toolbox) -> dict[str, Any]:  # Any: JSON
    """Returns a message as templates take it. Arguments that are JSON are values there."""
    variables: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        variables["tool_calls"] = [
            {
                "id": toolbox.template_id(call.id),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        variables["tool_call_id"] = toolbox.template_id(message.tool_call_id)
    return variables


def _arguments(text: str) -> Any:  # JSON
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _check(use: ToolUse) -> None:
    names = [tool.name for tool in use.tools]
    if len(names) > _MOST_TOOLS:
        raise InvalidRequest(f"tools: there are more than {_MOST_TOOLS}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidRequest("tools: a name consists of 1 to 128 letters, digits and _ - . : /")
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: two of them have the same name")
    if use.name is not None and use.name not in names:
        raise InvalidRequest(f"tool_choice: there is no tool {use.name}")
    if use.choice == "required" and not names:
        raise InvalidRequest("tool_choice: there are no tools")


def _schema(tool: Tool) -> Any:  # JSON
    try:
        schema = json.loads(tool.parameters)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"tools: the parameters of {tool.name} are not a JSON schema")
    return schema
