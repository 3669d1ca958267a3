"""Draft tokens are accepted as long as they equal the tokens that are sampled without them."""

import torch
from torch import Tensor

from app.engine.ipc.messages import SamplingParams
from app.engine.sampling.sampler import RequestSampler, sample
from app.engine.speculative.verification import sample_and_verify

VOCABULARY = 8


def greedy() -> RequestSampler:
    return RequestSampler(SamplingParams(temperature=0))


def likeliest(*tokens: int) -> Tensor:
    """Logits with one row per token, in which this token is the most likely one."""
    return torch.eye(VOCABULARY)[list(tokens)]


def test_sample_and_verify_without_drafts_samples_one_token_for_each_request() -> None:
    assert sample_and_verify(likeliest(3, 5), [greedy(), greedy()], [(), ()]) == [[3], [5]]


def test_sample_and_verify_accepts_draft_tokens_up_to_the_first_wrong_one() -> None:
    logits = likeliest(1, 2, 3, 4)
    assert sample_and_verify(logits, [greedy()], [(1, 2, 3)]) == [[1, 2, 3, 4]]
    assert sample_and_verify(logits, [greedy()], [(1, 7, 3)]) == [[1, 2]]
    assert sample_and_verify(logits, [greedy()], [(7, 2, 3)]) == [[1]]


def test_sample_and_verify_tells_the_rows_of_several_requests_apart() -> None:
    logits = likeliest(1, 2, 3, 4, 5, 6)
    drafts = [(1, 7), (), (5,)]
    assert sample_and_verify(logits, [greedy(), greedy(), greedy()], drafts) == [[1, 2], [4], [5, 6]]


def test_sample_and_verify_draws_what_the_seed_draws_without_drafts() -> None:
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=1.5, seed=7)
    plain = RequestSampler(params)
    drawn = [sample(row.unsqueeze(0), [plain])[0] for row in logits]
    right = tuple(drawn[:3])
    assert sample_and_verify(logits, [RequestSampler(params)], [right]) == [drawn]
