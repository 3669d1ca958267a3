"""Accepts the draft tokens that equal the tokens which the sampler draws, and rejects the first other one."""

from collections.abc import Sequence
from itertools import accumulate, count

from torch import Tensor

from app.engine.device import on_device
from app.engine.sampling.sampler import RequestSampler, sample


def sample_and_verify(
    logits: Tensor, samplers: Sequence[RequestSampler], drafts: Sequence[tuple[int, ...]]
) -> list[list[int]]:
    """Returns, for each request, the draft tokens that equal the sampled ones and the token after them.

    `logits` has, request after request, a row for the next token and one after each draft token. Every token
    is sampled as it would be without drafts, so they change neither the distribution nor a seed's draws. None
    follows a token with which the reply is complete.
    """
    first_rows = list(accumulate((1 + len(draft) for draft in drafts[:-1]), initial=0))
    sampled: list[list[int]] = [[] for _ in samplers]
    verifying = list(range(len(samplers)))
    for depth in count():
        rows = [first_rows[index] + depth for index in verifying]
        own = logits if len(rows) == len(logits) else logits.index_select(0, on_device(rows, logits.device))
        tokens = sample(own, [samplers[index] for index in verifying])
        for index, token in zip(verifying, tokens, strict=True):
            sampled[index].append(token)
        verifying = [
            index
            for index in verifying
            if drafts[index][depth : depth + 1] == (sampled[index][-1],) and not samplers[index].is_complete
        ]
        if not verifying:
            return sampled
    raise AssertionError("unreachable")
