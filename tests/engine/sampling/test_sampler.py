"""The sampler draws from the distribution that transformers' processors describe, row by row."""

import math
from typing import NoReturn

import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import SamplingParams
from app.engine.sampling.rules import rules_for
from app.engine.sampling.sampler import RequestSampler, check_sampling, most_likely, sample

VOCABULARY = 60
SHAPES = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.3, top_k=5),
    SamplingParams(temperature=1.0, top_p=0.7),
    SamplingParams(temperature=0.9, min_p=0.1),
    SamplingParams(temperature=1.5, top_k=20, top_p=0.8, min_p=0.05),
]


def ruled(params: SamplingParams, prompt: list[int]) -> RequestSampler:
    """A sampler with the rules of its parameters, none of which needs the texts of tokens."""
    return RequestSampler(params, rules_for(params, prompt, {1}, no_tokens))


def no_tokens() -> NoReturn:
    raise AssertionError("no rule needs them")


def some_logits(rows: int = 1, vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3)) * 2


def expected(params: SamplingParams, logits: Tensor) -> Tensor:
    """Probabilities by transformers' own processors."""
    steps = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(MinPLogitsWarper(params.min_p))
    no_ids = torch.zeros(1, 1, dtype=torch.long)
    scores: Tensor = steps(no_ids, logits)  # type: ignore[arg-type]  # transformers asks for legacy types
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("params", SHAPES)
def test_sample_draws_the_reference_distribution(params: SamplingParams) -> None:
    logits, draws = some_logits(), 20_000
    samplers = [RequestSampler(replace(params, seed=seed)) for seed in range(draws)]
    counts = torch.bincount(torch.tensor(sample(logits.expand(draws, -1), samplers)), minlength=VOCABULARY)
    wanted = expected(params, logits)
    assert not counts[wanted == 0].any()
    deviation = (counts / draws - wanted).abs()
    assert (deviation <= 5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-9).all()


def test_sample_row_is_independent_of_its_batch() -> None:
    logits = some_logits(6)
    params = [replace(shape, seed=7) for shape in SHAPES]
    together = [
        sample(logits, samplers) for samplers in [[RequestSampler(p) for p in params]] for _ in range(20)
    ]
    for row, own in enumerate(params):
        sampler = RequestSampler(own)
        alone = [sample(logits[row : row + 1], [sampler])[0] for _ in range(20)]
        assert alone == [tokens[row] for tokens in together]


def test_sample_wide_vocabulary_sorts_only_when_it_must() -> None:
    """A flat distribution needs more than the first candidates; the result is still exact."""
    logits = some_logits(1, 5000) * 0.01
    params = SamplingParams(temperature=1.0, top_p=0.9)
    sampler, kept = RequestSampler(params), expected(params, logits) > 0
    assert kept.sum() > 1024
    assert all(kept[sample(logits, [sampler])[0]] for _ in range(300))


@pytest.mark.parametrize(
    "neighbour",
    [SamplingParams(top_p=0.999), SamplingParams(top_k=5000), SamplingParams(top_k=1500, top_p=0.99)],
)
def test_sample_tied_logits_are_ordered_by_id_whatever_shares_the_batch(neighbour: SamplingParams) -> None:
    """In 16 bits many logits are equal; which of them is drawn must not depend on the other rows."""
    logits = some_logits(2, 20_000).bfloat16()
    params = [
        SamplingParams(temperature=1.0, top_k=40, seed=5),
        replace(neighbour, temperature=1.0, seed=6),
    ]
    together = [RequestSampler(param) for param in params]
    alone = RequestSampler(params[0])
    for _ in range(40):
        assert sample(logits, together)[0] == sample(logits[:1], [alone])[0]


@pytest.mark.parametrize("top_k", [3, 1500])
def test_sample_ties_at_the_cut_go_to_the_lowest_ids(top_k: int) -> None:
    sampler = RequestSampler(SamplingParams(temperature=1.0, top_k=top_k, seed=1))
    drawn = {sample(torch.zeros(1, 6000, dtype=torch.bfloat16), [sampler])[0] for _ in range(300)}
    assert max(drawn) < top_k


def test_sample_row_of_nan_does_not_fail_its_batch() -> None:
    logits = some_logits(2, 5000)
    logits[0] = math.nan
    samplers = [RequestSampler(SamplingParams(top_p=0.5, seed=1)) for _ in range(2)]
    alone = sample(logits[1:], [RequestSampler(SamplingParams(top_p=0.5, seed=1))])
    assert sample(logits, samplers)[1:] == alone


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-8, 1e-3])
def test_sample_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = some_logits(4) * 100
    samplers = [RequestSampler(SamplingParams(temperature=temperature, top_p=0.9)) for _ in range(4)]
    assert sample(logits, samplers) == logits.argmax(-1).tolist()


def test_sample_repetition_penalty_equals_transformers() -> None:
    prompt, logits = [3, 5, 9], some_logits()
    sampler = ruled(SamplingParams(temperature=0, repetition_penalty=1.7), prompt)
    ids = list(prompt)
    for _ in range(30):
        reference = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([ids]), logits.clone())
        ids += sample(logits, [sampler])
        assert ids[-1] == int(reference.argmax())


def test_sample_presence_and_frequency_penalties_are_openais() -> None:
    logits = some_logits()
    params = SamplingParams(temperature=0, presence_penalty=0.3, frequency_penalty=0.2)
    sampler, counts = ruled(params, [int(logits.argmax())]), torch.zeros(VOCABULARY)
    for _ in range(40):
        wanted = logits - 0.2 * counts - 0.3 * (counts > 0)
        token = sample(logits, [sampler])[0]
        assert token == int(wanted.argmax())
        counts[token] += 1


def test_sample_leaves_the_logits_as_they_were() -> None:
    logits = some_logits()
    before = logits.clone()
    sample(logits, [ruled(SamplingParams(repetition_penalty=1.5, frequency_penalty=1.0), [1, 2])])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -3.0])
def test_check_names_the_field_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=field):
        check_sampling(replace(SamplingParams(), **{field: value}))


def test_sample_bias_is_added_to_the_logits() -> None:
    logits = some_logits()
    unlikely = int(logits.argmin())
    params = SamplingParams(temperature=0, logit_bias={unlikely: 100, int(logits.argmax()): -100})
    assert sample(logits, [ruled(params, [0]), ruled(SamplingParams(temperature=0), [0])][:1]) == [unlikely]
    assert sample(logits.expand(2, -1), [ruled(params, [0]), ruled(SamplingParams(temperature=0), [0])]) == [
        unlikely,
        int(logits.argmax()),
    ]


def test_sample_bans_stop_ids_until_there_are_min_tokens() -> None:
    logits = some_logits()
    logits[:, 1] = 100
    sampler = ruled(SamplingParams(temperature=0, min_tokens=3), [0])
    drawn = [sample(logits, [sampler])[0] for _ in range(5)]
    assert 1 not in drawn[:3]
    assert drawn[3:] == [1, 1]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(logit_bias={1: 101.0}),
        SamplingParams(logit_bias={1: math.nan}),
        SamplingParams(logit_bias=dict.fromkeys(range(2000), 1.0)),
        SamplingParams(stop_token_ids=(1,) * 200),
        SamplingParams(bad_words=("",)),
        SamplingParams(max_tokens=3, min_tokens=4),
    ],
)
def test_check_refuses_what_no_sampler_can_do(params: SamplingParams) -> None:
    with pytest.raises(InvalidRequest):
        check_sampling(params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@given(st.integers(1, 3), st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_most_likely_is_the_first_of_equals(dtype: torch.dtype, rows: int, size: int, seed: int) -> None:
    logits = torch.randint(-2, 3, (rows, size), generator=torch.Generator().manual_seed(seed)).to(dtype)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert most_likely(logits).tolist() == first == logits.argmax(-1).tolist()
