"""Classifies the tokens of a model: those that end a reply, have no text, or stand for bytes."""

from collections.abc import Sequence, Set
from functools import cached_property

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import SamplingParams, TokenLogprob
from app.engine.loading.load import LoadedModel
from app.engine.replies.detokenizer import Detokenizer, ReplyText
from app.engine.replies.stop_strings import StopStrings
from app.engine.sampling.logprobs import RowLogprobs
from app.engine.tokenization.direct_calls import decoder
from app.engine.tokenization.token_bytes import TokenBytes


class Vocabulary:
    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._decode = decoder(loaded.tokenizer)
        self.size = int(loaded.model.config.get_text_config().vocab_size)
        added = self._tokenizer.added_tokens_decoder
        self._silent_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        known = self._tokenizer.get_vocab()
        self._byte_ids = frozenset(known[name] for byte in range(256) if (name := f"<0x{byte:02X}>") in known)
        self._stop_ids = loaded.stop_ids
        self.suppressed_ids = loaded.suppressed_ids

    def check(self, ids: Sequence[int], *, are_given: bool) -> None:
        """Raises InvalidRequest if the model has no embedding for one of the ids.

        The error names the place of the id if it is the caller who has given them.
        """
        if min(ids) >= 0 and max(ids) < self.size:
            return
        if not are_given:
            raise InvalidRequest("the text has a token that is not in the model's vocabulary")
        place = next(place for place, token_id in enumerate(ids) if not 0 <= token_id < self.size)
        raise InvalidRequest(f"prompt: there is no token {ids[place]} (at position {place}); {self._known}")

    def check_named(self, sampling: SamplingParams) -> None:
        """Raises InvalidRequest if the parameters name a token that the model does not have."""
        for name, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
            for token_id in ids:
                if not 0 <= token_id < self.size:
                    raise InvalidRequest(f"{name}: there is no token {token_id}; {self._known}")

    @property
    def _known(self) -> str:
        return f"the model's tokens are 0 to {self.size - 1}"

    def stop_ids(self, sampling: SamplingParams) -> Set[int]:
        """Returns the ids that end a reply with these parameters."""
        own: Set[int] = frozenset() if sampling.ignore_eos else self._stop_ids
        return own | frozenset(sampling.stop_token_ids)

    def reply_text(
        self,
        stops: Sequence[str],
        *,
        joins: Sequence[int] = (),
        includes_stop: bool = False,
        visible: Set[int] = frozenset(),
    ) -> ReplyText:
        """Returns the text of a new reply. `joins` are the ids of the text that it continues, if any.

        `includes_stop` says whether the text includes the stop string or token that ended it. `visible` are
        special tokens that the text shows.
        """
        silent_ids = self._silent_ids - visible
        detokenizer = Detokenizer(self._decode, byte_ids=self._byte_ids, silent_ids=silent_ids)
        detokenizer.follow(joins)
        return ReplyText(detokenizer, StopStrings(stops, includes_stop=includes_stop))

    def tokens(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Returns the bytes of each id."""
        return tuple(map(self.token_bytes.of, ids))

    def text(self, ids: Sequence[int], *, skips_special: bool) -> str:
        """Returns the text of the ids. Raises InvalidRequest if there is no such token."""
        for token_id in ids:
            if not 0 <= token_id < self.size:
                raise InvalidRequest(f"token_ids: there is no token {token_id}")
        return self._decode([each for each in ids if not (skips_special and each in self._silent_ids)])

    def describe(self, row: RowLogprobs) -> TokenLogprob:
        """Returns the row's log-probabilities with the bytes of the tokens."""
        of = self.token_bytes.of
        top = tuple(TokenLogprob(token_id, of(token_id), logprob) for token_id, logprob in row.top)
        return TokenLogprob(row.token, of(row.token), row.logprob, top)

    @cached_property
    def token_bytes(self) -> TokenBytes:
        return TokenBytes(self._tokenizer, self.size)
