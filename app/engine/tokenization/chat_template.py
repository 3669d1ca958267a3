"""Renders a chat with the model's template, in the sandbox."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest, ModelRefused
from app.engine.replies.parts import THINK_CLOSE, THINK_OPEN, Thinking
from app.engine.sandbox.template_sandbox import TemplateOutOfBounds, TemplateRefused, TemplateSandbox

END = "\ufdd2"  # a noncharacter after a message that will be continued

_SWITCH = "enable_thinking"  # the variable by which many templates turn reasoning off
_USUAL_END = f"\n{THINK_CLOSE}\n\n"
_LONGEST_REASON = 200  # characters of a template's own error message
_EXCEEDS = "the model's chat template exceeds its limits of time, memory or length"

TemplateMessage = dict[str, Any]  # role, content, and calls of tools: JSON
TemplateTools = Sequence[dict[str, Any]]  # in the form of OpenAI's API: JSON
_PROBE: TemplateTools = ({"type": "function", "function": {"name": "tool_probe", "parameters": {}}},)


class _ExceedsLimits(InvalidRequest):
    """The template was stopped by a limit of the sandbox."""


class ChatTemplate:
    """The tokenizer's own template, or else `fallback`. Without either, `render` raises InvalidRequest."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, fallback: str | None, sandbox: TemplateSandbox
    ) -> None:
        """Raises ModelRefused if the template exceeds the sandbox's limits even with two short messages."""
        own: str | dict[str, str] | None = tokenizer.chat_template
        named: dict[str, str] = own if isinstance(own, dict) else {}
        self._only_has_others = bool(named)
        self.source = (named.get("default") if isinstance(own, dict) else own) or fallback
        self.tool_source = named.get("tool_use") or self.source
        self._special_tokens = tokenizer.special_tokens_map
        self._sandbox = sandbox
        self.shows_system = self.source is None or self._shows_system()

    def render(
        self,
        messages: Sequence[TemplateMessage],
        *,
        opens_reply: bool = True,
        think: bool = False,
        tools: TemplateTools = (),
    ) -> str:
        """Returns the chat's text. Raises InvalidRequest if the template refuses it or exceeds its limits."""
        source = self.tool_source if tools else self.source
        if source is None:
            kind = "default chat template" if self._only_has_others else "chat template"
            raise InvalidRequest(f"this model has no {kind}", hint="Use raw generation instead.")
        variables = self._special_tokens | {
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": opens_reply,
            _SWITCH: think,
        }
        try:
            return self._sandbox.render(source, variables)
        except TemplateOutOfBounds as error:
            raise _ExceedsLimits(f"{_EXCEEDS} with these messages") from error
        except TemplateRefused as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            message = "the model's chat template refuses these messages"
            raise InvalidRequest(f"{message}: {reason}" if reason else message) from error

    def render_unfinished(self, messages: Sequence[TemplateMessage], *, tools: TemplateTools = ()) -> str:
        """Returns the text up to the end of the last message, whose end is restored if the template trims it.

        Raises InvalidRequest as `render` does, and if the template alters the message in another way.
        """
        *before, last = messages
        content = last["content"]
        marked = last | {"content": content + END}
        text, _, _ = self.render([*before, marked], opens_reply=False, tools=tools).rpartition(END)
        if not text.endswith(content.lstrip()) or not text:
            raise InvalidRequest("the model's chat template alters the reply, so it cannot be continued")
        return text if text.endswith(content) else text.removesuffix(content.lstrip()) + content

    def thinking(self, text: str, wanted: bool | None) -> Thinking:
        """Returns whether the reply may begin with thinking, and whether the prompt has already opened it.

        Raises InvalidRequest if a model that cannot think should, or one that always thinks should not.
        """
        source = self.source or ""
        is_opened = text.rstrip().endswith(THINK_OPEN)
        if wanted and not is_opened and _SWITCH not in source:
            raise InvalidRequest("this model does not think aloud", hint="Leave think out.")
        if wanted is False and is_opened:
            raise InvalidRequest("this model always thinks aloud", hint="Leave think out.")
        return "opened" if is_opened else "marked" if THINK_CLOSE in source else "none"

    @cached_property
    def thinking_end(self) -> str:
        """The text with which the template itself ends an empty thinking, or else the usual one."""
        try:
            text = self.render(({"role": "user", "content": "user-probe"},), think=False)
        except InvalidRequest:
            return _USUAL_END
        found = re.search(rf"{THINK_OPEN}(\s*{THINK_CLOSE}\s*)$", text)
        return f"\n{found[1].lstrip()}" if found is not None else _USUAL_END

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows the tools that it is given."""
        try:
            return "tool_probe" in self.render(({"role": "user", "content": "user-probe"},), tools=_PROBE)
        except InvalidRequest:
            return False

    def _shows_system(self) -> bool:
        """Returns whether the template accepts a system message and shows it."""
        system = {"role": "system", "content": "system-probe"}
        try:
            return "system-probe" in self.render((system, {"role": "user", "content": "user-probe"}))
        except _ExceedsLimits as error:
            hint = "Templates are code by the model's author. Choose a model of another author."
            raise ModelRefused(_EXCEEDS, hint=hint) from error
        except InvalidRequest:
            return False
