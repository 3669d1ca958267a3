"""Changes a request's logits before a token is drawn: penalties, biases and bans.

A ban is a very low but finite logit. A grammar's mask is minus infinity, so that it wins over every ban.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from app.engine.device import on_device
from app.engine.ipc.messages import SamplingParams
from app.engine.tokenization.token_bytes import TokenBytes

BANNED = -1e30


class LogitRule(Protocol):
    """Changes the logits of one request. Rules are applied in order."""

    @property
    def is_active(self) -> bool:
        """Whether `apply` would change the next token's logits."""

    def apply(self, logits: Tensor) -> None:
        """Change one row of float32 logits in place."""

    def take(self, token: int) -> None:
        """Note the token that was drawn."""


class Penalties:
    """Makes the tokens of the prompt and the reply so far less likely."""

    is_active = True

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._params = params
        self._prompt_ids = prompt_ids
        self._seen: Tensor | None = None  # bool: whether the token is in the prompt or reply
        self._counts = torch.empty(0)  # float32: how often it is in the reply

    def apply(self, logits: Tensor) -> None:
        """Penalise first repetition, as transformers does, then presence and frequency, as OpenAI does."""
        if self._seen is None:
            self._seen = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
            self._seen[on_device(self._prompt_ids, logits.device)] = True
            self._counts = torch.zeros(len(logits), device=logits.device)
        factor = self._params.repetition_penalty
        if factor != 1:
            penalised = torch.where(logits > 0, logits / factor, logits * factor)
            torch.where(self._seen, penalised, logits, out=logits)
        logits -= self._params.frequency_penalty * self._counts
        logits -= self._params.presence_penalty * (self._counts > 0)

    def take(self, token: int) -> None:
        if self._seen is not None:
            self._seen[token] = True
            self._counts[token] += 1


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Adds a number to the logits of some tokens."""

    biases: dict[int, float]
    is_active = True

    def apply(self, logits: Tensor) -> None:
        ids = on_device(list(self.biases), logits.device)
        logits[ids] += on_device(list(self.biases.values()), logits.device, logits.dtype)

    def take(self, token: int) -> None:
        pass


class MinTokens:
    """Bans the ids that end a reply until it has `min_tokens` tokens."""

    def __init__(self, min_tokens: int, stop_ids: Set[int]) -> None:
        self._missing = min_tokens
        self._stop_ids = sorted(stop_ids)

    @property
    def is_active(self) -> bool:
        return self._missing > 0

    def apply(self, logits: Tensor) -> None:
        _ban(logits, self._stop_ids)

    def take(self, token: int) -> None:
        self._missing -= 1


class SuppressedTokens:
    """Bans the tokens that a model's author bans, some of them only from the beginning of the reply."""

    def __init__(self, always: Set[int], first: Set[int]) -> None:
        self._always = sorted(always)
        self._first = sorted(first)

    @property
    def is_active(self) -> bool:
        return bool(self._always or self._first)

    def apply(self, logits: Tensor) -> None:
        _ban(logits, [*self._always, *self._first])

    def take(self, token: int) -> None:
        self._first = []


class BadWords:
    """Bans every token that would complete one of the texts, however they are cut into tokens."""

    is_active = True

    def __init__(self, words: Sequence[str], tokens: TokenBytes) -> None:
        self._words = [word.encode() for word in words]
        self._tokens = tokens
        self._whole = sorted({token_id for word in self._words for token_id in tokens.containing(word)})
        self._tail = b""
        self._longest = max(map(len, self._words)) - 1

    def apply(self, logits: Tensor) -> None:
        _ban(logits, self._whole)
        for word in self._words:
            for begun in range(1, len(word)):
                if self._tail.endswith(word[:begun]):
                    _ban(logits, self._tokens.starting_with(word[begun:]))

    def take(self, token: int) -> None:
        self._tail = (self._tail + self._tokens.text_of(token))[-self._longest :] if self._longest else b""


def _ban(logits: Tensor, token_ids: Sequence[int]) -> None:
    known = [token_id for token_id in token_ids if token_id < len(logits)]
    if known:
        logits[on_device(known, logits.device)] = BANNED


def rules_for(
    params: SamplingParams,
    prompt_ids: Sequence[int],
    stop_ids: Set[int],
    tokens: Callable[[], TokenBytes],
) -> list[LogitRule]:
    """Returns the rules that the parameters ask for. `tokens` is called only if they need it."""
    rules: list[LogitRule] = []
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    if penalties != (1, 0, 0):
        rules.append(Penalties(params, prompt_ids))
    if params.logit_bias:
        rules.append(LogitBias(params.logit_bias))
    if params.bad_words:
        rules.append(BadWords(params.bad_words, tokens()))
    if params.min_tokens:
        rules.append(MinTokens(params.min_tokens, stop_ids))
    return rules
