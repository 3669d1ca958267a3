"""Classifies the tokens of a model: those that end a reply, have no text, or stand for bytes."""

from collections.abc import Sequence

from app.core.errors import InvalidRequest
from app.engine.loading.load import LoadedModel
from app.engine.tokenization.detokenizer import Detokenizer, ReplyText
from app.engine.tokenization.panics import panics_as_errors
from app.engine.tokenization.stop_strings import StopStrings


class Vocabulary:
    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._size = int(loaded.model.config.get_text_config().vocab_size)
        added = self._tokenizer.added_tokens_decoder
        self._silent_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        known = self._tokenizer.get_vocab()
        self._byte_ids = frozenset(known[name] for byte in range(256) if (name := f"<0x{byte:02X}>") in known)
        self.stop_ids = loaded.stop_ids

    def check(self, ids: Sequence[int]) -> None:
        """Raises InvalidRequest if the model has no embedding for one of the ids."""
        if max(ids) >= self._size:
            raise InvalidRequest("the text has a token that is not in the model's vocabulary")

    def reply_text(self, stops: Sequence[str], *, joins: Sequence[int] = ()) -> ReplyText:
        """Returns the text of a new reply. `joins` are the ids of the text that it continues, if any."""
        detokenizer = Detokenizer(self._decode, byte_ids=self._byte_ids, silent_ids=self._silent_ids)
        detokenizer.follow(joins)
        return ReplyText(detokenizer, StopStrings(stops))

    def _decode(self, ids: list[int]) -> str:
        with panics_as_errors():
            return str(
                self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            )
