"""Samples the next token of every row of a step, each with its own parameters, in a few torch calls.

A row's token depends only on its logits and its own random numbers, never on the rest of the batch.
"""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from app.core.errors import InvalidRequest
from app.core.sampling import (
    BOUNDS,
    LOGIT_BIAS,
    MAX_BAD_WORDS,
    MAX_BIASED_TOKENS,
    MAX_STOP_TOKENS,
)
from app.engine.device import on_device
from app.engine.grammars.rule import GrammarRule
from app.engine.ipc.messages import SamplingParams
from app.engine.sampling.rules import LogitRule

_MIN_TEMPERATURE = 1e-5  # below it, float32 quotients overflow; the draw is already greedy here
_MAX_NOISE = 1 - 2**-22  # the greatest number whose product with a float32 sum stays below that sum
_LENGTHS = {
    "logit_bias": MAX_BIASED_TOKENS,
    "stop_token_ids": MAX_STOP_TOKENS,
    "bad_words": MAX_BAD_WORDS,
}
_CANDIDATES = 1024  # most likely tokens looked at before sorting a whole vocabulary


def check_sampling(params: SamplingParams) -> None:
    """Raises InvalidRequest, which names the field, if a number is out of its range, or is NaN."""
    for name, bounds in BOUNDS.items():
        value = getattr(params, name)
        is_empty = name == "max_tokens" and value == 0
        if value is not None and value not in bounds and not is_empty:
            raise InvalidRequest(f"{name} is out of range")
    for name, most in _LENGTHS.items():
        if len(getattr(params, name)) > most:
            raise InvalidRequest(f"{name} has more than {most} entries")
    if not all(bias in LOGIT_BIAS for bias in params.logit_bias.values()):
        raise InvalidRequest("logit_bias is out of range")
    if not all(params.bad_words):
        raise InvalidRequest("bad_words has an empty text")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequest("min_tokens is greater than max_tokens")


class RequestSampler:
    """One request's sampling parameters, random numbers, and the rules that change its logits."""

    def __init__(
        self, params: SamplingParams, rules: Sequence[LogitRule] = (), grammar: GrammarRule | None = None
    ) -> None:
        self.params = params
        self.grammar = grammar
        self._noise = Random(params.seed)
        self._rules = [*rules, *(() if grammar is None else (grammar,))]

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow the tokens so far."""
        return self.grammar is not None and self.grammar.is_complete

    @property
    def failure(self) -> str | None:
        """The reason why the reply cannot go on, if there is any."""
        return None if self.grammar is None else self.grammar.failure

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature == 0

    @property
    def truncates(self) -> bool:
        return self.params.top_k > 0 or self.params.top_p < 1 or self.params.min_p > 0

    @property
    def has_rules(self) -> bool:
        """Whether a rule changes the logits of the next token."""
        return any(rule.is_active for rule in self._rules)

    def apply_rules(self, logits: Tensor) -> None:
        """Change the request's row of float32 logits in place."""
        for rule in self._rules:
            if rule.is_active:
                rule.apply(logits)

    def take(self, token: int) -> None:
        """Note the token that was drawn."""
        for rule in self._rules:
            rule.take(token)

    def uniform(self) -> float:
        """Returns the next number in [0, 1) of the request's own generator. Each draw uses one."""
        return self._noise.random()


def sample(logits: Tensor, samplers: Sequence[RequestSampler]) -> list[int]:
    """Returns the next token of each row of `logits` `[rows, vocabulary]`, which it leaves unchanged."""
    ruled = [row for row, sampler in enumerate(samplers) if sampler.has_rules]
    if not ruled and all(sampler.is_greedy for sampler in samplers):
        tokens: list[int] = most_likely(logits).tolist()
    else:
        logits = logits.float().clone()
        for row in ruled:
            samplers[row].apply_rules(logits[row])
        tokens = _sample_rows(logits, samplers)
    for token, sampler in zip(tokens, samplers, strict=True):
        sampler.take(token)
    return tokens


def most_likely(logits: Tensor) -> Tensor:
    """Returns the first of the most likely tokens of each row of `logits` `[rows, vocabulary]`."""
    if logits.device.type == "cpu":
        return logits.max(-1).indices  # torch's argmax takes four times as long in bfloat16, there only
    return logits.argmax(-1)


def _sample_rows(logits: Tensor, samplers: Sequence[RequestSampler]) -> list[int]:
    tokens = most_likely(logits)
    drawing = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    for draw, truncates in ((_draw, False), (_draw_truncated, True)):
        rows = [row for row in drawing if samplers[row].truncates is truncates]
        if rows:
            own, indices = [samplers[row] for row in rows], on_device(rows, logits.device)
            scaled = _apply_temperature(logits.index_select(0, indices), own)
            tokens.index_copy_(0, indices, draw(scaled, own))
    sampled: list[int] = tokens.tolist()
    return sampled


def _apply_temperature(logits: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """Returns logits divided by temperature. Each row's maximum is 0, so that no exponential overflows."""
    temperature = _column([max(sampler.params.temperature, _MIN_TEMPERATURE) for sampler in samplers], logits)
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def _draw(scaled: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    return _pick(scaled.exp(), samplers).squeeze(1)


def _draw_truncated(scaled: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """Apply top_k, then top_p and min_p to the tokens that it left.

    Candidates are ordered by likelihood, then by id. In 16 bits many logits are equal, and the number of
    candidates depends on the other rows of the batch, so they must always be the first of the same order.
    """
    scaled = scaled.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # NaN cannot be ordered
    mass = scaled.exp().sum(-1, keepdim=True)
    width = min(max([_CANDIDATES, *(sampler.params.top_k for sampler in samplers)]), scaled.shape[1])
    values, tokens = likeliest(scaled, width)
    weights, is_enough = _truncate(values.exp(), mass, samplers)
    if width < scaled.shape[1] and not bool(is_enough.all()):
        values, tokens = scaled.sort(descending=True, stable=True)
        weights, _ = _truncate(values.exp(), mass, samplers)
    return tokens.gather(1, _pick(weights, samplers)).squeeze(1)


def likeliest(scaled: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Returns the first `width` values of each row and their ids, in the order of a stable descending sort.

    `topk` alone defines neither the order of equal values nor which of them it takes at the cut.
    """
    values = scaled.topk(width).values
    cut = values[:, -1:]
    tied = scaled == cut
    room = (values == cut).sum(-1, keepdim=True)
    is_taken = (scaled > cut) | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))
    tokens = is_taken.nonzero()[:, 1].view(-1, width)  # ids ascending
    values, order = scaled.gather(1, tokens).sort(descending=True, stable=True)
    return values, tokens.gather(1, order)


def _truncate(weights: Tensor, mass: Tensor, samplers: Sequence[RequestSampler]) -> tuple[Tensor, Tensor]:
    """Returns the weights with excluded tokens at zero, and per row whether these candidates were enough.

    `mass` is the sum of weights over the whole vocabulary. The most likely token always stays.
    """
    params = [sampler.params for sampler in samplers]
    top_k = _column([param.top_k if param.top_k > 0 else weights.shape[1] for param in params], weights)
    has_top_k = _column([float(param.top_k > 0) for param in params], weights) > 0
    weights = weights * (torch.arange(weights.shape[1], device=weights.device) < top_k)
    cumulative = weights.cumsum(-1)
    limit = _column([param.top_p for param in params], weights) * torch.where(
        has_top_k, cumulative[:, -1:], mass
    )
    least = _column([param.min_p for param in params], weights)
    keep = ((cumulative - weights < limit) | (limit >= mass)) & (weights >= least)
    keep[:, 0] = True
    is_enough = has_top_k | (cumulative[:, -1:] >= limit) | (weights[:, -1:] < least)
    return weights * keep, is_enough


def _pick(weights: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """Returns a column index `[rows, 1]`, drawn in proportion to the weights with one number per row."""
    cumulative = weights.cumsum(-1)
    noise = _column([min(sampler.uniform(), _MAX_NOISE) for sampler in samplers], weights)
    target = noise * cumulative[:, -1:]
    # The first column whose cumulative sum exceeds the target, so never one of weight zero.
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return on_device(numbers, like.device, like.dtype).unsqueeze(1)
