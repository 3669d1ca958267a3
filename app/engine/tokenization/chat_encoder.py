"""Tokenises rendered chats. The text of a message never becomes a control token; no text is encoded twice."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain, compress, pairwise

from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.chat_template import END
from app.engine.tokenization.direct_calls import decoder, encoder
from app.engine.tokenization.recent_texts import RecentTexts

# Noncharacters, which no text may contain, around each control token inside a message.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


class ChatEncoder:
    """Encodes texts with one tokenizer, and chats with one chat template if the model has any."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None, calls: BoundedCalls) -> None:
        self._tokenizer = tokenizer
        self._encode, self._decode = encoder(tokenizer, calls), decoder(tokenizer)
        self._recent = RecentTexts(self._encode)
        self._encode_complete = encoder(tokenizer, calls, adds_special_tokens=True)
        self._control = _control_tokens(tokenizer, template or "")
        self._boundaries = _Boundaries.of(tokenizer)
        if not self._cuts_rightly():
            self._boundaries = _Boundaries()

    def mark_control_tokens(self, content: str) -> str:
        """Returns a message's content for the template, with marks around the control tokens in it."""
        plain = re.sub(f"[{_OPEN}{_CLOSE}{END}]", "", content)
        return self._control.sub(f"{_OPEN}\\g<0>{_CLOSE}", plain)

    def encode_chat(self, text: str, scope: str | None = None) -> list[int]:
        """Returns the ids of a rendered chat. Marked control tokens, and only these, are encoded as text.

        With a scope, the ids of its parts are kept, so that the next call encodes only new parts.
        """
        pieces = [piece for piece in self._pieces(text) if piece]
        if not pieces:
            return self._starting_ids()
        return self.encode_piece(pieces[0], scope) + self._encode_inner(pieces[1:], scope)

    def keep_reply(self, prompt_ids: Sequence[int], reply_ids: Sequence[int], scope: str) -> None:
        """Let later chats of the scope encode the reply as it was generated, so that its cache can be reused.

        The tokenizer may cut its text otherwise: that of 3 in 30 replies of SmolLM2 at temperature 0.7, of 60
        tokens each.
        """
        opening = self._boundaries.last_part(prompt_ids)
        if opening and self.encode_piece(self._decode(opening), scope) == opening:
            for part in self._boundaries.parts([*opening, *reply_ids]):
                self._recent.put(self._decode(part), part, scope)

    def encode_raw(self, text: str) -> list[int]:
        """Returns the ids of a text, with the special tokens that the tokenizer adds."""
        return self._encode_complete([text])[0] or self._starting_ids()

    def encode_piece(self, text: str, scope: str | None = None) -> list[int]:
        """Returns the ids of a text without added tokens. Control tokens in it become control tokens.

        With a scope, they are kept as those of a chat are.
        """
        return self._encode_pieces([text], scope)[0]

    def _encode_pieces(self, texts: Sequence[str], scope: str | None) -> list[list[int]]:
        """Returns the ids of each text. There may be thousands, so all are encoded in one call."""
        cut = [self._boundaries.cut(text) for text in texts]
        units = [unit for each in cut for unit in each]
        if not units:
            return [[] for _ in texts]
        encoded = iter(self._encode(units) if scope is None else self._recent.encode(units, scope))
        return [[token_id for _ in each for token_id in next(encoded)] for each in cut]

    def _encode_inner(self, pieces: Sequence[str], scope: str | None) -> list[int]:
        """Encodes each piece after a line break, which it removes: some tokenizers add a space first."""
        if not pieces:
            return []
        [line_break, *broken] = self._encode_pieces(["\n", *("\n" + piece for piece in pieces)], scope)
        joined = [ids[: len(line_break)] != line_break for ids in broken]
        alone = iter(self._encode_pieces([*compress(pieces, joined)], scope))
        return list(
            chain.from_iterable(
                next(alone) if is_joined else ids[len(line_break) :]
                for ids, is_joined in zip(broken, joined, strict=True)
            )
        )

    def _pieces(self, text: str) -> list[str]:
        """Returns the text cut at the marks, with each marked control token cut into parts that are none."""
        pieces: list[str] = []
        for part in re.split(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})", text):
            if part.startswith(_OPEN) and part.endswith(_CLOSE):
                pieces += self._broken(part[1:-1])
            else:  # a template that cuts strings may leave a single mark, which still separates texts
                pieces += re.split(f"[{_OPEN}{_CLOSE}]", part)
        return pieces

    def _broken(self, text: str) -> list[str]:
        """Returns pieces of `text` without control tokens. A control token of one character is left out."""
        found = self._control.search(text)
        if found is None:
            return [text]
        head, tail = found.group()[:1], found.group()[1:]
        if not tail:
            return [text[: found.start()], *self._broken(text[found.end() :])]
        return [text[: found.start()] + head, *self._broken(tail + text[found.end() :])]

    def _starting_ids(self) -> list[int]:
        """Returns the ids of an empty prompt."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [token_id]
        raise InvalidRequest("the prompt is empty")

    def _cuts_rightly(self) -> bool:
        """Returns whether a sample text has the same ids after it is cut."""
        text = self._boundaries.sample()
        whole = self._encode([text])[0] if text else []
        return self.encode_piece(text) == whole


class _Boundaries:
    """Cuts texts before control tokens, where encoding does not depend on the preceding text.

    The tokenizers library first finds added tokens in the whole text, from left to right, the longest first,
    and encodes the text between them piece by piece. A part that begins with such a token has the same ids as
    inside the whole text, unless the token absorbs preceding spaces or depends on adjacent letters.
    """

    def __init__(self, tokens: Sequence[str] = (), firm: Mapping[str, int] | None = None) -> None:
        """`tokens` are all added tokens, `firm` those with which a part may begin, and their ids."""
        self._tokens = _matching_any(tokens)
        self._firm = firm or {}
        self._firm_ids = frozenset(self._firm.values())

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "_Boundaries":
        known = tokenizer.added_tokens_decoder.items()
        added = {token_id: token for token_id, token in known if token.content and not token.normalized}
        if not tokenizer.is_fast or any(token.single_word for token in added.values()):
            return cls()
        firm = {
            token.content: token_id
            for token_id, token in added.items()
            if not (token.lstrip or token.content[0].isspace())
        }
        return cls([token.content for token in added.values()], firm)

    def cut(self, text: str) -> Sequence[str]:
        """Returns the parts of the text, in order."""
        starts = [match.start() for match in self._tokens.finditer(text) if match.group() in self._firm]
        return [text[start:end] for start, end in pairwise((0, *starts, len(text))) if start < end]

    def last_part(self, ids: Sequence[int]) -> list[int]:
        """Returns the ids from the last one with which a part may begin; none if there is no such id."""
        last = next((place for place in reversed(range(len(ids))) if ids[place] in self._firm_ids), len(ids))
        return list(ids[last:])

    def parts(self, ids: list[int]) -> list[list[int]]:
        """Returns the ids of each part, in order. Those before the first part are left out."""
        starts = [place for place, token_id in enumerate(ids) if token_id in self._firm_ids]
        return [ids[start:end] for start, end in pairwise((*starts, len(ids)))]

    def sample(self) -> str:
        """Returns a text with several boundaries; an empty one if the tokenizer has none."""
        return "".join(f"{token} Two words\n" for token in sorted(self._firm)[:8])


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str]:
    """Returns a pattern for special tokens, and for other added tokens that the template writes."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or token.content in template}
    return _matching_any([text for text in texts if text and not text.isspace()])


def _matching_any(texts: Sequence[str]) -> re.Pattern[str]:
    """Returns a pattern for any of the texts, the longest first. Without texts it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
