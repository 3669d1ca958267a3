"""Owns the way from a request's messages or raw text to token ids that fit the context window.

Text of a chat never becomes a control token; history that does not fit is left out by whole turns, oldest
first, and counted. Knows no torch, no scheduling.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jinja2
from transformers import PreTrainedTokenizerBase

from app.core.errors import ContextOverflow, InvalidRequest, ModelRefused
from app.engine.ipc.messages import ChatMessage, Submit
from app.engine.tokenization.history import History, folded
from app.engine.tokenization.parts import Thinking
from app.engine.tokenization.template_sandbox import LENGTH_LIMIT, TemplateOutOfBounds, bounded

# Noncharacters, which no text may hold, around each control token that a message holds.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_END = "\ufdd2"  # another one, behind a message that is to be continued

_THINK, _THOUGHT = "<think>", "</think>"  # what reasoning models write around their reasoning
_SWITCH = "enable_thinking"  # the name under which templates let it be turned off

_LONGEST_REASON = 200  # characters of what a template says when it refuses


_BLAME = "Templates are code of the model's author: choose a model from another one."


class _TemplateRunsAway(InvalidRequest):
    """It was stopped by a limit."""


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: list[int]
    max_tokens: int  # what the reply may have, within the window
    omitted_messages: int = 0
    thinking: Thinking = "none"


class PromptBuilder:
    """Builds prompts for one tokenizer and one window of `context_length` tokens.

    Raises ModelRefused where the chat template does not come to an end.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, context_length: int, chat_template: str | None
    ) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._template = _own_template(tokenizer) or chat_template
        self._control = _control_tokens(tokenizer, self._template or "")
        self._folds_system = self._template is not None and not self._shows_system()

    def build(self, request: Submit) -> Prompt:
        """Raises InvalidRequest for what makes no prompt, ContextOverflow for what cannot fit."""
        if (request.messages is None) == (request.prompt is None):
            raise InvalidRequest("a request has either messages or a prompt")
        if request.prompt is not None:
            return self._build_raw(request.prompt, request)
        return self._build_chat(request)

    def _build_raw(self, text: str, request: Submit) -> Prompt:
        if request.continue_final:
            raise InvalidRequest("only a chat has a final message to continue")
        ids = self._tokenizer(text)["input_ids"] or self._starting_ids()
        return self._fitted(Prompt(ids, self._context_length), request)

    def _build_chat(self, request: Submit) -> Prompt:
        history = History.of(request)
        limit = self._context_length - self._reply_reserve(request)
        prompt = self._render(history, 0, request)
        if len(prompt.ids) > limit and history.turns:
            prompt = self._without_oldest(history, limit, request)
        return self._fitted(prompt, request)

    def _without_oldest(self, history: History, limit: int, request: Submit) -> Prompt:
        """Fewest turns left out so that the rest is within `limit`; all where even that does not help."""
        low, high = 1, len(history.turns)
        best = self._render(history, high, request)
        while low < high:
            middle = (low + high) // 2
            prompt = self._render(history, middle, request)
            if len(prompt.ids) <= limit:
                best, high = prompt, middle
            else:
                low = middle + 1
        return best

    def _fitted(self, prompt: Prompt, request: Submit) -> Prompt:
        left = self._context_length - len(prompt.ids)
        if left < 1 and request.continue_final:
            raise ContextOverflow(
                f"The reply fills this model's context window of {self._context_length} tokens.",
                hint="Send a new message instead.",
            )
        if left < 1:
            raise self._overflow(len(prompt.ids), request.messages or ())
        wanted = request.sampling.max_tokens
        return replace(prompt, max_tokens=left if wanted is None else min(wanted, left))

    def _overflow(self, tokens: int, messages: Sequence[ChatMessage]) -> ContextOverflow:
        """Names what takes most of the `tokens` that do not fit: the system prompt, or the message."""
        window = f"This model's maximum context length is {self._context_length} tokens, but "
        texts = [message.content for message in messages if message.role == "system"]
        system = sum(len(self._encode_piece(text)) for text in texts)
        if 2 * system > tokens:
            why = f"system_prompt takes {system} of the {tokens} that this request needs."
            return ContextOverflow(window + why, hint="Shorten system_prompt.")
        return ContextOverflow(f"{window}the message alone takes {tokens}.", hint="Shorten the message.")

    def _reply_reserve(self, request: Submit) -> int:
        """Tokens that history leaves to the reply."""
        quarter = max(self._context_length // 4, 1)
        wanted = request.sampling.max_tokens
        return quarter if wanted is None else min(wanted, quarter)

    def _render(self, history: History, omitted_turns: int, request: Submit) -> Prompt:
        messages = history.without(omitted_turns)
        if self._folds_system:
            messages = folded(messages)
        omitted = history.messages_in(omitted_turns)
        if request.continue_final:
            return Prompt(self._encode(self._begun_reply(messages)), 0, omitted)
        text = self._opened_reply(messages, bool(request.think))
        return Prompt(self._encode(text), 0, omitted, self._thinking(text, request.think))

    def _opened_reply(self, messages: Sequence[ChatMessage], think: bool = False) -> str:
        return self._apply_template([self._as_dict(message) for message in messages], True, think)

    def _thinking(self, text: str, wanted: bool | None) -> Thinking:
        """Whether the reply to this rendered chat may hold reasoning. Raises where the wish cannot be met."""
        template = self._template or ""
        is_begun = text.rstrip().endswith(_THINK)
        if wanted and not is_begun and _SWITCH not in template:
            raise InvalidRequest("this model does not think aloud", hint="Leave think out.")
        if wanted is False and is_begun:
            raise InvalidRequest("this model always thinks aloud", hint="Leave think out.")
        return "begun" if is_begun else "marked" if _THOUGHT in template else "none"

    def _begun_reply(self, messages: Sequence[ChatMessage]) -> str:
        """The chat up to the end of its last message, which ends just as it stands: templates may trim it."""
        dicts = [self._as_dict(message) for message in messages]
        begun = dicts[-1]["content"]
        dicts[-1]["content"] += _END
        text, _, _ = self._apply_template(dicts, False).rpartition(_END)
        if not text.endswith(begun.lstrip()) or not text:
            raise InvalidRequest("the model's chat template alters the reply, so it cannot be continued")
        return text if text.endswith(begun) else text.removesuffix(begun.lstrip()) + begun

    def _apply_template(self, messages: list[dict[str, str]], opens_reply: bool, think: bool = False) -> str:
        if self._template is None:
            kind = "default chat template" if self._tokenizer.chat_template else "chat template"
            raise InvalidRequest(f"this model has no {kind}", hint="Use raw generation instead.")
        try:
            with bounded():
                text = self._tokenizer.apply_chat_template(
                    messages,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=opens_reply,
                    enable_thinking=think,  # for templates that know it
                )
        except TemplateOutOfBounds as error:
            raise _TemplateRunsAway("the model's chat template does not end with these messages") from error
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages{_said(error)}") from error
        if len(text) > LENGTH_LIMIT:
            raise _TemplateRunsAway("the model's chat template makes too much of these messages")
        return str(text)

    def _shows_system(self) -> bool:
        """Whether the template takes a system message and shows it."""
        probe = (ChatMessage("system", "system-probe"), ChatMessage("user", "user-probe"))
        try:
            return "system-probe" in self._opened_reply(probe)
        except _TemplateRunsAway as error:
            raise ModelRefused("the model's chat template takes more than it may", hint=_BLAME) from error
        except InvalidRequest:
            return False

    def _as_dict(self, message: ChatMessage) -> dict[str, str]:
        """For the template, the control tokens in it marked."""
        return {"role": message.role, "content": self._marked(message.content)}

    def _marked(self, content: str) -> str:
        plain = re.sub(f"[{_OPEN}{_CLOSE}{_END}]", "", content)
        return self._control.sub(f"{_OPEN}\\g<0>{_CLOSE}", plain)

    def _encode(self, text: str) -> list[int]:
        """Ids of a rendered chat; what is marked, and only that, is kept from becoming a control token."""
        pieces = [piece for piece in self._pieces(text) if piece]
        if not pieces:
            return self._starting_ids()
        ids = self._encode_piece(pieces[0])
        for piece in pieces[1:]:
            ids += self._encode_inner(piece)
        return ids

    def _pieces(self, text: str) -> list[str]:
        """Cut at the marks, and each marked control token so that no part is a control token."""
        pieces: list[str] = []
        for part in re.split(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})", text):
            if part.startswith(_OPEN) and part.endswith(_CLOSE):
                pieces += self._broken(part[1:-1])
            else:  # a template that cuts strings may leave a lone mark; it still parts the text
                pieces += re.split(f"[{_OPEN}{_CLOSE}]", part)
        return pieces

    def _broken(self, text: str) -> list[str]:
        """Pieces of `text`, none of which holds a control token; one of a single character is left out."""
        found = self._control.search(text)
        if found is None:
            return [text]
        head, tail = found.group()[:1], found.group()[1:]
        if not tail:
            return [text[: found.start()], *self._broken(text[found.end() :])]
        return [text[: found.start()] + head, *self._broken(tail + text[found.end() :])]

    def _encode_piece(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _encode_inner(self, text: str) -> list[int]:
        """Encoded behind a line break, then removed: some tokenizers put a space before a beginning."""
        line_break = self._encode_piece("\n")
        ids = self._encode_piece("\n" + text)
        if ids[: len(line_break)] == line_break:
            return ids[len(line_break) :]
        return self._encode_piece(text)

    def _starting_ids(self) -> list[int]:
        """What stands for an empty prompt."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [token_id]
        raise InvalidRequest("the prompt is empty")


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that a tokenizer brings for plain chats; it may bring several, by name."""
    own: str | dict[str, str] | None = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def _said(error: Exception) -> str:
    """What the template itself has to say, shortly; other errors may quote the chat, which is not shown."""
    if type(error) is not jinja2.TemplateError:  # raise_exception's; its subclasses are jinja's own
        return ""
    return ": " + " ".join(str(error).split())[:_LONGEST_REASON]


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str]:
    """Matches special tokens, and other added tokens that the template writes, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or token.content in template}
    ordered = sorted((text for text in texts if text and not text.isspace()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
