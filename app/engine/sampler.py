"""Owns the choice of the next tokens: one pass over all rows of a step, each with its own parameters.

A row's draw depends on its logits and its own noise alone, never on what shares the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from random import Random

import torch
from torch import Tensor

from app.core.errors import InvalidRequest
from app.core.sampling import BOUNDS
from app.engine.device import on_device
from app.engine.ipc.messages import SamplingParams

_COLDEST = 1e-5  # below it, float32 quotients overflow and the draw is the greedy one anyway
_ALMOST_ONE = 1 - 2**-22  # the greatest noise whose product with a float32 sum stays below that sum
_CANDIDATES = 1024  # most likely tokens looked at before sorting a whole vocabulary


def check(params: SamplingParams) -> None:
    """Raises InvalidRequest, naming the field, for a number outside its range; NaN is outside of each."""
    for name, bounds in BOUNDS.items():
        value = getattr(params, name)
        if value is not None and value not in bounds:
            raise InvalidRequest(f"{name} is out of range")


@dataclass(slots=True, eq=False)
class Penalties:
    """What a request has said so far, counted as it goes; vectors over the vocabulary."""

    params: SamplingParams
    seen: Tensor  # bool: in prompt or reply
    counts: Tensor  # float32: times in the reply

    @classmethod
    def start(
        cls, params: SamplingParams, prompt_ids: list[int], vocabulary: int, device: torch.device
    ) -> "Penalties":
        seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        seen[on_device(prompt_ids, device)] = True
        return cls(params, seen, torch.zeros(vocabulary, device=device))

    def count(self, token: int) -> None:
        self.seen[token] = True
        self.counts[token] += 1

    def apply(self, logits: Tensor) -> None:
        """In place on one row: first the repetition penalty, as transformers has it, then OpenAI's two."""
        factor = self.params.repetition_penalty
        if factor != 1:
            penalised = torch.where(logits > 0, logits / factor, logits * factor)
            torch.where(self.seen, penalised, logits, out=logits)
        logits -= self.params.frequency_penalty * self.counts
        logits -= self.params.presence_penalty * (self.counts > 0)


class RequestSampler:
    """One request's way to choose: parameters, noise and, where asked for, penalties."""

    def __init__(self, params: SamplingParams, prompt_ids: list[int]) -> None:
        self.params = params
        self._noise = Random(params.seed)
        self._prompt_ids = prompt_ids
        self._penalties: Penalties | None = None

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature == 0

    @property
    def truncates(self) -> bool:
        return self.params.top_k > 0 or self.params.top_p < 1 or self.params.min_p > 0

    @property
    def penalises(self) -> bool:
        params = self.params
        return (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)

    def penalise(self, logits: Tensor) -> None:
        """In place on the request's row of float32 logits."""
        if self._penalties is None:
            self._penalties = Penalties.start(self.params, self._prompt_ids, len(logits), logits.device)
        self._penalties.apply(logits)

    def count(self, token: int) -> None:
        if self._penalties is not None:
            self._penalties.count(token)

    def uniform(self) -> float:
        """The next number in [0, 1) of this request's own stream; one per token drawn."""
        return self._noise.random()


def sample(logits: Tensor, samplers: Sequence[RequestSampler]) -> list[int]:
    """The next token of each row of `logits` `[rows, vocabulary]`."""
    if all(sampler.is_greedy and not sampler.penalises for sampler in samplers):
        tokens: list[int] = logits.argmax(-1).tolist()
        return tokens
    logits = logits.float().clone()
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.penalises:
            sampler.penalise(row)
    tokens = _sample_rows(logits, samplers)
    for token, sampler in zip(tokens, samplers, strict=True):
        sampler.count(token)
    return tokens


def sample_and_verify(
    logits: Tensor, samplers: Sequence[RequestSampler], drafts: Sequence[tuple[int, ...]]
) -> list[list[int]]:
    """Returns, for each request, the draft tokens that equal the sampled ones and the token after them.

    `logits` has, request after request, a row for the next token and one after each draft token. Every token
    is sampled as it would be without drafts, so they change neither the distribution nor a seed's draws.
    """
    first_rows = list(accumulate((1 + len(draft) for draft in drafts[:-1]), initial=0))
    chosen: list[list[int]] = [[] for _ in samplers]
    undecided = list(range(len(samplers)))
    for depth in count():
        rows = [first_rows[index] + depth for index in undecided]
        own = logits if len(rows) == len(logits) else logits.index_select(0, on_device(rows, logits.device))
        tokens = sample(own, [samplers[index] for index in undecided])
        for index, token in zip(undecided, tokens, strict=True):
            chosen[index].append(token)
        undecided = [index for index in undecided if drafts[index][depth : depth + 1] == (chosen[index][-1],)]
        if not undecided:
            return chosen
    raise AssertionError("unreachable")


def _sample_rows(logits: Tensor, samplers: Sequence[RequestSampler]) -> list[int]:
    tokens = logits.argmax(-1)
    drawing = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    for draw, truncates in ((_draw, False), (_draw_truncated, True)):
        rows = [row for row in drawing if samplers[row].truncates is truncates]
        if rows:
            own, places = [samplers[row] for row in rows], on_device(rows, logits.device)
            tokens.index_copy_(0, places, draw(_apply_temperature(logits.index_select(0, places), own), own))
    chosen: list[int] = tokens.tolist()
    return chosen


def _apply_temperature(logits: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """Logits over temperature, the greatest of each row 0, so that their exponentials never overflow."""
    temperature = _column([max(sampler.params.temperature, _COLDEST) for sampler in samplers], logits)
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def _draw(heated: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    return _pick(heated.exp(), samplers).squeeze(1)


def _draw_truncated(heated: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """top_k, then top_p and min_p over what it left; candidates are in order of likelihood, then of id.

    However many of them are looked at, they are the first of one same order: in 16 bits many logits are
    equal, and how wide the view is depends on the other rows.
    """
    heated = heated.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # NaN has no place in an order
    mass = heated.exp().sum(-1, keepdim=True)
    width = min(max([_CANDIDATES, *(sampler.params.top_k for sampler in samplers)]), heated.shape[1])
    values, tokens = _likeliest(heated, width)
    weights, is_enough = _truncate(values.exp(), mass, samplers)
    if width < heated.shape[1] and not bool(is_enough.all()):
        values, tokens = heated.sort(descending=True, stable=True)
        weights, _ = _truncate(values.exp(), mass, samplers)
    return tokens.gather(1, _pick(weights, samplers)).squeeze(1)


def _likeliest(heated: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The first `width` values of each row and their ids, as a stable descending sort orders them.

    `topk` alone orders equal values, and chooses among those at the cut, by an inner working of its own.
    """
    values = heated.topk(width).values
    cut = values[:, -1:]
    tied = heated == cut
    room = (values == cut).sum(-1, keepdim=True)
    chosen = (heated > cut) | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))
    tokens = chosen.nonzero()[:, 1].view(-1, width)  # ids ascending
    values, order = heated.gather(1, tokens).sort(descending=True, stable=True)
    return values, tokens.gather(1, order)


def _truncate(weights: Tensor, mass: Tensor, samplers: Sequence[RequestSampler]) -> tuple[Tensor, Tensor]:
    """Zeroes what each row's parameters exclude; and says per row whether a wider view would add nothing.

    `mass` is the sum over the whole vocabulary. The most likely token always stays.
    """
    params = [sampler.params for sampler in samplers]
    top_k = _column([param.top_k if param.top_k > 0 else weights.shape[1] for param in params], weights)
    has_top_k = _column([float(param.top_k > 0) for param in params], weights) > 0
    weights = weights * (torch.arange(weights.shape[1], device=weights.device) < top_k)
    through = weights.cumsum(-1)
    limit = _column([param.top_p for param in params], weights) * torch.where(
        has_top_k, through[:, -1:], mass
    )
    least = _column([param.min_p for param in params], weights)
    keep = ((through - weights < limit) | (limit >= mass)) & (weights >= least)
    keep[:, 0] = True
    is_enough = has_top_k | (through[:, -1:] >= limit) | (weights[:, -1:] < least)
    return weights * keep, is_enough


def _pick(weights: Tensor, samplers: Sequence[RequestSampler]) -> Tensor:
    """Column index `[rows, 1]` drawn in proportion to the weights, from one uniform number per row."""
    through = weights.cumsum(-1)
    noise = _column([min(sampler.uniform(), _ALMOST_ONE) for sampler in samplers], weights)
    target = noise * through[:, -1:]
    # The first column whose sum exceeds the target: a column of weight zero never is.
    return torch.searchsorted(through, target, right=True).clamp_(max=weights.shape[1] - 1)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return on_device(numbers, like.device, like.dtype).unsqueeze(1)
