"""Tokenises rendered chats: text of a message never becomes a control token, and no text is encoded twice."""

import re
from collections.abc import Sequence, Set
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.tokenization.chat_template import END
from app.engine.tokenization.panics import panics_as_errors

# Noncharacters, which no text may hold, around each control token that a message holds.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"

KnownIds = dict[str, list[int]]  # token ids of texts, by text


class ChatEncoder:
    """For one tokenizer, and one chat template if the model has any."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._control = _control_tokens(tokenizer, template or "")
        self._boundaries = _Boundaries.of(tokenizer)
        if not self._cuts_rightly():
            self._boundaries = _Boundaries()

    def marked(self, content: str) -> str:
        """A message's content for the template, with marks around the control tokens in it."""
        plain = re.sub(f"[{_OPEN}{_CLOSE}{END}]", "", content)
        return self._control.sub(f"{_OPEN}\\g<0>{_CLOSE}", plain)

    def encode_chat(self, text: str, known: KnownIds) -> list[int]:
        """Ids of a rendered chat; a control token that is marked, and only that, is encoded as text.

        `known` keeps the ids of each part of the chat. A chat that was encoded with it before costs only the
        parts that are new.
        """
        pieces = [piece for piece in self._pieces(text) if piece]
        if not pieces:
            return self._starting_ids()
        ids = self.encode_piece(pieces[0], known)
        for piece in pieces[1:]:
            ids += self._encode_inner(piece, known)
        return ids

    def encode_raw(self, text: str) -> list[int]:
        """Ids of a text as it stands, with the tokens that the tokenizer puts around one."""
        with panics_as_errors():
            ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids or self._starting_ids()

    def encode_piece(self, text: str, known: KnownIds) -> list[int]:
        """Ids of a text with nothing around it; a control token in it becomes one."""
        units = self._boundaries.cut(text)
        new = list(dict.fromkeys(unit for unit in units if unit not in known))
        if new:
            known.update(zip(new, self._encode(new), strict=True))
        return [token_id for unit in units for token_id in known[unit]]

    def _encode_inner(self, text: str, known: KnownIds) -> list[int]:
        """Encodes behind a line break, then removes it: some tokenizers put a space before a beginning."""
        line_break = self.encode_piece("\n", known)
        ids = self.encode_piece("\n" + text, known)
        if ids[: len(line_break)] == line_break:
            return ids[len(line_break) :]
        return self.encode_piece(text, known)

    def _pieces(self, text: str) -> list[str]:
        """The text cut at the marks, and each marked control token cut so that no part is one."""
        pieces: list[str] = []
        for part in re.split(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})", text):
            if part.startswith(_OPEN) and part.endswith(_CLOSE):
                pieces += self._broken(part[1:-1])
            else:  # a template that cuts strings may leave a lone mark, which still separates texts
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

    def _starting_ids(self) -> list[int]:
        """The ids that stand for an empty prompt."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [token_id]
        raise InvalidRequest("the prompt is empty")

    def _cuts_rightly(self) -> bool:
        """Whether a sample text has the same ids when it is cut."""
        text = self._boundaries.sample()
        whole = self._encode([text])[0] if text else []
        return self.encode_piece(text, {}) == whole

    def _encode(self, texts: list[str]) -> list[list[int]]:
        with panics_as_errors():
            ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


class _Boundaries:
    """Cuts texts in front of control tokens, where a tokenizer starts afresh, independent of the text before.

    The tokenizers library first finds added tokens in the whole text, from left to right, the longest first,
    and encodes the text between them piece by piece. A part that begins with such a token has the ids that it
    has in the whole, unless the token takes in spaces before it or looks at the letters beside it.
    """

    def __init__(self, tokens: Sequence[str] = (), firm: Set[str] = frozenset()) -> None:
        """`tokens` are all that are found in the whole text, `firm` those that a part may begin with."""
        self._tokens = _matching_any(tokens)
        self._firm = firm

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "_Boundaries":
        added = [token for token in tokenizer.added_tokens_decoder.values() if not token.normalized]
        if not tokenizer.is_fast or any(token.single_word for token in added):
            return cls()
        texts = {token.content: token for token in added if token.content}
        return cls(list(texts), {text for text in texts if not (texts[text].lstrip or text[0].isspace())})

    def cut(self, text: str) -> Sequence[str]:
        """The parts of the text, which concatenate to it."""
        starts = [match.start() for match in self._tokens.finditer(text) if match.group() in self._firm]
        return [text[start:end] for start, end in pairwise((0, *starts, len(text))) if start < end]

    def sample(self) -> str:
        """A text with several boundaries in it, empty if there are none."""
        return "".join(f"{token} Two words\n" for token in sorted(self._firm)[:8])


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str]:
    """Matches special tokens, and other added tokens that the template writes."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or token.content in template}
    return _matching_any([text for text in texts if text and not text.isspace()])


def _matching_any(texts: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing if there is none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
