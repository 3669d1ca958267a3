"""Fits a chat into the context window: omits whole turns, the oldest first, and leaves room for the reply.

The conversation's own limit on turns comes first: `last_turns` in app/models/conversation.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from app.engine.replies.parts import Thinking

NO_THINKING: Thinking = "none"
# Assumed bounds of the longest token: some tokenizers have one token for any unknown word, and a hostile one
# may hold a token as long as a book.
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 64, 512


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: list[int]
    max_tokens: int  # for the reply, within the window
    omitted_messages: int = 0
    thinking: Thinking = NO_THINKING
    has_closed_thinking: bool = False  # whether it ends with an empty thinking, so that none follows
    characters: int = 0  # of a text that is too long to be tokenised; then there are no ids

    def fits(self, limit: int) -> bool:
        """Returns whether the prompt has at most `limit` tokens."""
        return self.characters == 0 and len(self.ids) <= limit


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """The room for a prompt and its reply. `wanted` is the request's max_tokens; None sets no limit."""

    tokens: int
    max_characters: int  # a text with more of them has too many tokens for certain

    @classmethod
    def of(cls, tokens: int, tokenizer: PreTrainedTokenizerBase) -> "ContextWindow":
        return cls(tokens, tokens * _longest_token(tokenizer))

    def reply_tokens(self, prompt: Prompt, wanted: int | None) -> int:
        """Returns how many tokens the reply may have; 0 if the prompt leaves it no room."""
        left = max(self.tokens - len(prompt.ids), 0)
        return left if wanted is None else min(wanted, left)

    def fit_turns(self, render: Callable[[int], Prompt], turns: int, wanted: int | None) -> Prompt:
        """Returns the prompt that omits the fewest turns and leaves room for a reply.

        `render` makes the prompt without that many of the oldest turns, of which at most `turns` may go. If
        none of the prompts fits, returns the shortest.
        """
        limit = self.tokens - self._reply_reserve(wanted)
        whole = render(0)
        if whole.fits(limit) or turns == 0:
            return whole
        low, high = 1, turns
        best = render(high)
        while low < high:
            middle = (low + high) // 2
            prompt = render(middle)
            if prompt.fits(limit):
                best, high = prompt, middle
            else:
                low = middle + 1
        return best

    def _reply_reserve(self, wanted: int | None) -> int:
        """Returns how many tokens are kept for the reply when turns are omitted: a quarter at most."""
        quarter = max(self.tokens // 4, 1)
        return quarter if wanted is None else min(wanted, quarter)


def _longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many characters one token may stand for."""
    longest = max(map(len, tokenizer.get_vocab()), default=1)
    return min(max(longest, _FEWEST_CHARACTERS), _MOST_CHARACTERS)
