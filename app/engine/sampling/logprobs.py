"""Computes log-probabilities from logits as the model gave them, in float32."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.core.errors import InvalidRequest
from app.core.sampling import MAX_PROMPT_LOGPROBS
from app.engine.device import on_device
from app.engine.sampling.sampler import likeliest

_LOWEST = -9999.0  # reported for a probability of zero, because JSON has no infinity

_AT_ONCE = 1 << 22  # logits; those of 27 rows of 150,000 tokens


def check_prompt_logprobs(tokens: int, top: int | None) -> None:
    """Raises InvalidRequest if so many tokens of a prompt, each with its `top` likeliest, are too many."""
    if top is None:
        raise InvalidRequest("prompt_logprobs needs top_logprobs")
    if tokens * (1 + top) > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"the log-probabilities of a prompt of {tokens:,} tokens are too many",
            hint=f"Ask for at most {MAX_PROMPT_LOGPROBS:,} of them, those of other likely tokens included.",
        )


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """The log-probability of one row's token, and the most likely tokens with theirs, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def row_logprobs(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], tops: Sequence[int]
) -> list[RowLogprobs]:
    """Returns the log-probabilities of the token and of the top tokens of each of the `rows` of `logits`.

    A few rows at a time are computed, because that takes several times as much memory as their logits.
    """
    size = max(1, _AT_ONCE // logits.shape[1])
    parts = (slice(begin, begin + size) for begin in range(0, len(rows), size))
    return [
        each for part in parts for each in _computed_together(logits, rows[part], tokens[part], tops[part])
    ]


def _computed_together(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], tops: Sequence[int]
) -> list[RowLogprobs]:
    chosen = logits.index_select(0, on_device(rows, logits.device)).float()
    logprobs = chosen - chosen.logsumexp(-1, keepdim=True)
    logprobs = logprobs.nan_to_num(nan=_LOWEST, neginf=_LOWEST)
    own = logprobs.gather(1, on_device(tokens, logits.device).unsqueeze(1)).squeeze(1).tolist()
    most = min(max(tops), logprobs.shape[1])
    values, ids = likeliest(logprobs, most) if most > 0 else (torch.empty(len(rows), 0),) * 2
    return [
        RowLogprobs(token, logprob, tuple(zip(row_ids[:top], row_values[:top], strict=True)))
        for token, logprob, top, row_ids, row_values in zip(
            tokens, own, tops, ids.tolist(), values.tolist(), strict=True
        )
    ]
