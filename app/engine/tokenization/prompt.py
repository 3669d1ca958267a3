"""Builds the token ids of a request from its messages or its raw text, within the context window."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.core.errors import ContextOverflow, InvalidRequest
from app.engine.ipc.messages import ChatMessage, RawPrompt, Submit, Tool
from app.engine.replies.parts import THINK_CLOSE, Thinking
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.chat_encoder import ChatEncoder
from app.engine.tokenization.chat_template import ChatTemplate
from app.engine.tokenization.context_window import NO_THINKING, ContextWindow, Prompt
from app.engine.tokenization.history import History, fold_system_messages
from app.engine.tools.toolbox import Toolbox, message_variables, template_tools


class PromptBuilder:
    """Builds prompts with one tokenizer, for a window of `context_length` tokens.

    `chat_template` is used if the tokenizer has none. Raises ModelRefused if the template exceeds the limits
    of the sandbox.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int,
        chat_template: str | None,
        sandbox: TemplateSandbox,
        calls: BoundedCalls | None = None,
    ) -> None:
        self._window = ContextWindow.of(context_length, tokenizer)
        self._template = ChatTemplate(tokenizer, chat_template, sandbox)
        self._encoder = ChatEncoder(
            tokenizer, self._template.source, BoundedCalls() if calls is None else calls
        )
        self.toolbox = Toolbox(tokenizer, self._template.tool_source)

    def build(self, request: Submit) -> Prompt:
        """Returns the prompt. Raises InvalidRequest, or ContextOverflow if the request cannot fit."""
        if (request.messages is None) == (request.prompt is None):
            raise InvalidRequest("a request has either messages or a prompt")
        if request.prompt is not None:
            return self._with_room(self._build_raw(request.prompt, request), request)
        return self._build_chat(request)

    def _build_raw(self, prompt: RawPrompt, request: Submit) -> Prompt:
        if request.continue_final_message:
            raise InvalidRequest("only a chat has a final message to continue")
        if isinstance(prompt, str) and len(prompt) > self._window.max_characters:
            raise self._too_long(len(prompt), ())
        return Prompt(self._raw_ids(prompt), 0)

    def _raw_ids(self, prompt: RawPrompt) -> list[int]:
        if isinstance(prompt, str):
            return self._encoder.encode_raw(prompt)
        if not prompt:
            raise InvalidRequest("prompt: it has no token")
        return list(prompt)

    def _build_chat(self, request: Submit) -> Prompt:
        history = History.of(request)
        self._check_tools(request)
        render = partial(self._render, history, request)
        prompt = self._window.fit_turns(render, len(history.turns), request.sampling.max_tokens)
        return self._with_room(prompt, request)

    def _check_tools(self, request: Submit) -> None:
        if _shown_tools(request) and not self._template.shows_tools:
            raise InvalidRequest(
                "this model's chat template knows no tools", hint="Leave tools out, or choose another model."
            )

    def _render(self, history: History, request: Submit, omitted_turns: int) -> Prompt:
        omitted = history.messages_in(omitted_turns)
        text, thinking = self._text(history.without(omitted_turns), request)
        if len(text) > self._window.max_characters:
            return Prompt([], 0, omitted, thinking, characters=len(text))
        is_closed = text.rstrip().endswith(THINK_CLOSE)
        return Prompt(self._encoder.encode_chat(text, request.scope), 0, omitted, thinking, is_closed)

    def keep_reply(self, prompt_ids: Sequence[int], reply_ids: Sequence[int], scope: str) -> None:
        """Let later prompts of the scope that contain the reply have its own ids."""
        self._encoder.keep_reply(prompt_ids, reply_ids, scope)

    def thinking_end(self) -> list[int]:
        """Returns the tokens that end a reply's thinking."""
        return self._encoder.encode_piece(self._template.thinking_end)

    def tokenize(self, text: str, *, adds_special_tokens: bool) -> list[int]:
        """Returns the ids of a text. Names of special tokens in it become special tokens."""
        if not text:
            return []
        if adds_special_tokens:
            return self._encoder.encode_raw(text)
        return self._encoder.encode_piece(text)

    def count(self, request: Submit) -> int:
        """Returns how many tokens the prompt has, however long. Raises InvalidRequest as `build` does."""
        if (request.messages is None) == (request.prompt is None):
            raise InvalidRequest("a request has either messages or a prompt")
        if request.prompt is not None:
            return len(self._raw_ids(request.prompt))
        self._check_tools(request)
        text, _ = self._text(History.of(request).without(0), request)
        return len(self._encoder.encode_chat(text, request.scope))  # with the kept ids of earlier replies

    def _marked(self, value: Any) -> Any:  # JSON
        """Returns the value with all its texts marked for the template."""
        if isinstance(value, str):
            return self._encoder.mark_control_tokens(value)
        if isinstance(value, list):
            return [self._marked(each) for each in value]
        if isinstance(value, dict):
            return {self._marked(key): self._marked(each) for key, each in value.items()}
        return value

    def _text(self, messages: Sequence[ChatMessage], request: Submit) -> tuple[str, Thinking]:
        """Returns the chat's text, and how the reply's thinking begins."""
        if not self._template.shows_system:
            messages = fold_system_messages(messages)
        marked = [
            {**self._marked(message_variables(each, self.toolbox)), "role": each.role} for each in messages
        ]
        tools = self._marked(template_tools(_shown_tools(request)))
        if request.continue_final_message:
            return self._template.render_unfinished(marked, tools=tools), NO_THINKING
        think = request.wants_thinking if request.think is None else request.think
        text = self._template.render(marked, think=think, tools=tools)
        return text, self._template.thinking(text, request.think)

    def _with_room(self, prompt: Prompt, request: Submit) -> Prompt:
        if prompt.characters:
            raise self._too_long(prompt.characters, request.messages or ())
        wanted = request.sampling.max_tokens
        max_tokens = self._window.reply_tokens(prompt, wanted)
        if max_tokens > 0 or (wanted == 0 and prompt.fits(self._window.tokens)):
            return replace(prompt, max_tokens=max_tokens)
        if request.continue_final_message:
            raise ContextOverflow(
                f"The reply fills this model's context window of {self._window.tokens} tokens.",
                hint="Send a new message instead.",
            )
        raise self._overflow(len(prompt.ids), request)

    def _overflow(self, tokens: int, request: Submit) -> ContextOverflow:
        """Returns an error that names the system prompt or the message, whichever is longer."""
        window = f"This model's maximum context length is {self._window.tokens} tokens, but "
        texts = [message.content for message in request.messages or () if message.role == "system"]
        system = sum(len(self._encoder.encode_piece(text, request.scope)) for text in texts)
        if 2 * system > tokens:
            why = f"system_prompt takes {system} of the {tokens} that this request needs."
            return ContextOverflow(window + why, hint="Shorten system_prompt.")
        return ContextOverflow(f"{window}the message alone takes {tokens}.", hint="Shorten the message.")

    def _too_long(self, characters: int, messages: Sequence[ChatMessage]) -> ContextOverflow:
        """Returns the error for a text that is certainly too long, so that its tokens are not counted."""
        window = f"This model's maximum context length is {self._window.tokens} tokens, but "
        system = sum(len(message.content) for message in messages if message.role == "system")
        if 2 * system > characters:
            return ContextOverflow(
                f"{window}system_prompt has {system} characters.", hint="Shorten system_prompt."
            )
        return ContextOverflow(
            f"{window}the message alone has {characters} characters.", hint="Shorten the message."
        )


def _shown_tools(request: Submit) -> Sequence[Tool]:
    """Returns the tools that the prompt shows: none if the reply must not call any."""
    use = request.tool_use
    return () if use is None or use.choice == "none" else use.tools
