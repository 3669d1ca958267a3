"""Builds the token ids of a request from its messages or its raw text, so that they fit the context window.

Of a chat that is too long whole turns are left out, the oldest first, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from app.core.errors import ContextOverflow, InvalidRequest
from app.engine.ipc.messages import ChatMessage, Submit
from app.engine.tokenization.chat_encoder import ChatEncoder, KnownIds
from app.engine.tokenization.chat_template import ChatTemplate
from app.engine.tokenization.history import History, folded
from app.engine.tokenization.parts import Thinking
from app.engine.tokenization.template_sandbox import TemplateSandbox

_NO_THINKING: Thinking = "none"
# Assumed bounds of the longest token: some tokenizers have one token for any unknown word, and a hostile one
# may hold a token as long as a book.
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 64, 512


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: list[int]
    max_tokens: int  # for the reply, within the window
    omitted_messages: int = 0
    thinking: Thinking = _NO_THINKING
    characters: int = 0  # of a text that is too long to be tokenised at all, and then has no ids

    def fits(self, limit: int) -> bool:
        """Whether it has at most `limit` tokens."""
        return self.characters == 0 and len(self.ids) <= limit


class PromptBuilder:
    """For one tokenizer and one window of `context_length` tokens. `chat_template` is used if it brings none.

    Raises ModelRefused if the template exceeds the sandbox's limits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int,
        chat_template: str | None,
        sandbox: TemplateSandbox,
    ) -> None:
        self._context_length = context_length
        self._max_characters = context_length * _longest_token(tokenizer)
        self._template = ChatTemplate(tokenizer, chat_template, sandbox)
        self._encoder = ChatEncoder(tokenizer, self._template.source)

    def build(self, request: Submit) -> Prompt:
        """Raises InvalidRequest if the request makes no prompt, ContextOverflow if it cannot fit."""
        if (request.messages is None) == (request.prompt is None):
            raise InvalidRequest("a request has either messages or a prompt")
        if request.prompt is not None:
            return self._build_raw(request.prompt, request)
        return self._build_chat(request)

    def _build_raw(self, text: str, request: Submit) -> Prompt:
        if request.continue_final_message:
            raise InvalidRequest("only a chat has a final message to continue")
        if len(text) > self._max_characters:
            raise self._too_long(len(text), ())
        return self._fitted(Prompt(self._encoder.encode_raw(text), self._context_length), request, {})

    def _build_chat(self, request: Submit) -> Prompt:
        history = History.of(request)
        limit = self._context_length - self._reply_reserve(request)
        known: KnownIds = {}
        prompt = self._render(history, 0, request, known)
        if not prompt.fits(limit) and history.turns:
            prompt = self._without_oldest(history, limit, request, known)
        return self._fitted(prompt, request, known)

    def _without_oldest(self, history: History, limit: int, request: Submit, known: KnownIds) -> Prompt:
        """Omits the fewest turns that bring the rest within `limit`, or all if none do."""
        low, high = 1, len(history.turns)
        best = self._render(history, high, request, known)
        while low < high:
            middle = (low + high) // 2
            prompt = self._render(history, middle, request, known)
            if prompt.fits(limit):
                best, high = prompt, middle
            else:
                low = middle + 1
        return best

    def _render(self, history: History, omitted_turns: int, request: Submit, known: KnownIds) -> Prompt:
        messages = history.without(omitted_turns)
        if not self._template.shows_system:
            messages = folded(messages)
        marked = [{"role": each.role, "content": self._encoder.marked(each.content)} for each in messages]
        omitted = history.messages_in(omitted_turns)
        if request.continue_final_message:
            text, thinking = self._template.render_unfinished(marked), _NO_THINKING
        else:
            text = self._template.render(marked, think=bool(request.think))
            thinking = self._template.thinking(text, request.think)
        if len(text) > self._max_characters:
            return Prompt([], 0, omitted, thinking, len(text))
        return Prompt(self._encoder.encode_chat(text, known), 0, omitted, thinking)

    def _fitted(self, prompt: Prompt, request: Submit, known: KnownIds) -> Prompt:
        if prompt.characters:
            raise self._too_long(prompt.characters, request.messages or ())
        left = self._context_length - len(prompt.ids)
        if left < 1 and request.continue_final_message:
            raise ContextOverflow(
                f"The reply fills this model's context window of {self._context_length} tokens.",
                hint="Send a new message instead.",
            )
        if left < 1:
            raise self._overflow(len(prompt.ids), request.messages or (), known)
        wanted = request.sampling.max_tokens
        return replace(prompt, max_tokens=left if wanted is None else min(wanted, left))

    def _overflow(self, tokens: int, messages: Sequence[ChatMessage], known: KnownIds) -> ContextOverflow:
        """Names the system prompt or the message, whichever takes most of the `tokens` that do not fit."""
        window = f"This model's maximum context length is {self._context_length} tokens, but "
        texts = [message.content for message in messages if message.role == "system"]
        system = sum(len(self._encoder.encode_piece(text, known)) for text in texts)
        if 2 * system > tokens:
            why = f"system_prompt takes {system} of the {tokens} that this request needs."
            return ContextOverflow(window + why, hint="Shorten system_prompt.")
        return ContextOverflow(f"{window}the message alone takes {tokens}.", hint="Shorten the message.")

    def _too_long(self, characters: int, messages: Sequence[ChatMessage]) -> ContextOverflow:
        """The error for a text that surely has too many tokens, so that they are not counted."""
        window = f"This model's maximum context length is {self._context_length} tokens, but "
        system = sum(len(message.content) for message in messages if message.role == "system")
        if 2 * system > characters:
            return ContextOverflow(f"{window}system_prompt has {system} characters.", hint="Shorten it.")
        return ContextOverflow(
            f"{window}the message alone makes {characters} characters.", hint="Shorten the message."
        )

    def _reply_reserve(self, request: Submit) -> int:
        """Tokens of the window that history leaves to the reply."""
        quarter = max(self._context_length // 4, 1)
        wanted = request.sampling.max_tokens
        return quarter if wanted is None else min(wanted, quarter)


def _longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The characters that one token may stand for. A text with more than that for each is surely too long."""
    longest = max(map(len, tokenizer.get_vocab()), default=1)
    return min(max(longest, _FEWEST_CHARACTERS), _MOST_CHARACTERS)
