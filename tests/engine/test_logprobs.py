"""Log-probabilities equal those of transformers' own logits, in any mix, also with speculation."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.overrides import TorchFunctionMode

from app.core.errors import InvalidRequest
from app.engine.core import EngineCore
from app.engine.ipc.messages import (
    Deltas,
    Failed,
    PromptLogprobs,
    RawPrompt,
    SamplingParams,
    Submit,
    TokenLogprob,
)
from app.engine.sampling.logprobs import check_prompt_logprobs, row_logprobs
from tests.engine.tiny import DEVICE, Collected, TinyModel, ended, finish, greedy, run

PROMPT = "the cat sat on the mat, 日本語 the cat sat"
TOKENS = 40


@dataclass
class CollectedLogprobs(Collected):
    tokens: dict[str, list[TokenLogprob]] = field(default_factory=dict)
    prompts: dict[str, list[TokenLogprob]] = field(default_factory=dict)

    def take_with_logprobs(self, engine: EngineCore) -> None:
        for message in engine.step():
            match message:
                case Deltas():
                    for delta in message.items:
                        self.tokens.setdefault(delta.request_id, []).extend(delta.logprobs)
                case PromptLogprobs():
                    assert not self.texts[message.request_id], "the prompt comes before the reply"
                    self.prompts.setdefault(message.request_id, []).extend(message.tokens)
            self.take([message])


def run_all(engine: EngineCore, *submits: Submit) -> CollectedLogprobs:
    collected = CollectedLogprobs()
    for submit in submits:
        engine.submit(submit)
    while not engine.is_idle:
        collected.take_with_logprobs(engine)
    finish(engine, collected)
    return collected


def ask(
    request_id: str = "a",
    prompt: RawPrompt = PROMPT,
    *,
    prompt_logprobs: bool = False,
    **sampling: Any,  # as SamplingParams types each
) -> Submit:
    params = replace(SamplingParams(max_tokens=TOKENS, temperature=0, top_logprobs=5), **sampling)
    return Submit(request_id, params, prompt=prompt, prompt_logprobs=prompt_logprobs)


def reference(tiny: TinyModel, ids: Sequence[int]) -> Tensor:
    """The log-probabilities `[ids, vocabulary]` of what follows each id."""
    with torch.no_grad():
        logits: Tensor = tiny.reference(torch.tensor([list(ids)], device=DEVICE)).logits[0]
    return logits.float().log_softmax(-1).cpu()


def expect_equal(tiny: TinyModel, ids: Sequence[int], start: int, tokens: Sequence[TokenLogprob]) -> None:
    """Each token's and each top token's log-probability is transformers'; the tokens stand at `start`."""
    wanted = reference(tiny, ids)
    for place, token in enumerate(tokens, start):
        assert token.token_id == ids[place]
        if place == 0:
            assert (token.logprob, token.top) == (None, ())
            continue
        assert token.logprob == pytest.approx(float(wanted[place - 1, token.token_id]), abs=1e-4)
        values, top = wanted[place - 1].topk(5)
        assert [each.token_id for each in token.top] == top.tolist()
        assert [each.logprob for each in token.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("speculation_rows", [0, 8])
@pytest.mark.parametrize("step_tokens", [5, 64])
def test_engine_logprobs_equal_transformers(tiny: TinyModel, speculation_rows: int, step_tokens: int) -> None:
    engine = tiny.engine(speculation_rows=speculation_rows, step_tokens=step_tokens)
    for _ in range(2):  # the second time the prompt is in the cache
        collected = run_all(
            engine,
            ask(),
            greedy("plain", "the cat", 12),
            ask("drawn", temperature=1.5, seed=3, repetition_penalty=1.4, logit_bias={40: 3.0}),
        )
        prompt = tiny.tokenizer(PROMPT).input_ids
        for request_id in ("a", "drawn"):
            tokens = collected.tokens[request_id]
            ids = prompt + [token.token_id for token in tokens]
            text = b"".join(token.token_bytes for token in tokens).decode("utf-8", "replace")
            assert text == collected.texts[request_id] or "\ufffd" in text
            expect_equal(tiny, ids, len(prompt), tokens)
        assert collected.texts["plain"] == tiny.generate("the cat", 12)
        assert "plain" not in collected.tokens or not collected.tokens["plain"]


def test_engine_logprobs_have_every_token_of_a_reply_that_is_all_text(llama: TinyModel) -> None:
    collected = run_all(llama.engine(), ask(logit_bias={llama.tokenizer("cat").input_ids[0]: 100.0}))
    assert len(collected.tokens["a"]) == TOKENS == ended(collected).usage.completion_tokens


@pytest.mark.parametrize("step_tokens", [5, 64, 256])
def test_engine_prompt_logprobs_equal_transformers(tiny: TinyModel, step_tokens: int) -> None:
    engine, prompt = tiny.engine(step_tokens=step_tokens), PROMPT * 8
    run(engine, greedy("warm", prompt))  # now the prompt is in the cache, from where no logits come
    collected = run_all(
        engine, ask(prompt=prompt, prompt_logprobs=True, max_tokens=4), greedy("plain", prompt, 8)
    )
    ids = tiny.tokenizer(prompt).input_ids
    assert len(collected.prompts["a"]) == len(ids) > 64
    expect_equal(tiny, ids, 0, collected.prompts["a"])
    assert collected.texts["plain"] == tiny.generate(prompt, 8)
    assert collected.cached("a") == 0


@pytest.mark.parametrize(("name", "overlaps"), [("llama", False), ("llama", True), ("gemma3", False)])
def test_engine_scores_a_prompt_without_a_reply(
    tiny_model: Callable[[str], TinyModel], name: str, overlaps: bool
) -> None:
    tiny = dataclasses.replace(tiny_model(name), uses_pool=overlaps)
    engine = tiny.engine(context_length=256)
    ids = (tiny.tokenizer(PROMPT).input_ids * 30)[:256]  # they fill the context window
    plain = greedy("plain", "the cat", 12)
    scored = ask(prompt=tuple(ids), prompt_logprobs=True, max_tokens=0)
    for _ in range(2):  # the second time the prompt is in the cache
        collected = run_all(engine, scored, plain)
        expect_equal(tiny, ids, 0, collected.prompts["a"])
        assert len(collected.prompts["a"]) == len(ids)
        end = ended(collected)
        assert (end.finish_reason, end.usage.prompt_tokens, end.usage.completion_tokens) == ("length", 256, 0)
        assert collected.texts["a"] == ""
        assert collected.texts["plain"] == tiny.generate("the cat", 12)


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_engine_reports_the_only_token_of_a_prompt(llama: TinyModel, max_tokens: int) -> None:
    collected = run_all(llama.engine(), ask(prompt=(40,), prompt_logprobs=True, max_tokens=max_tokens))
    expect_equal(llama, [40], 0, collected.prompts["a"])
    assert len(collected.prompts["a"]) == 1
    assert ended(collected).usage.completion_tokens <= max_tokens


def test_engine_continues_given_ids_as_their_text(llama: TinyModel) -> None:
    ids = tuple(llama.tokenizer(PROMPT).input_ids)
    collected = run_all(llama.engine(), ask("text", max_tokens=12), ask("ids", prompt=ids, max_tokens=12))
    assert collected.texts["ids"] == collected.texts["text"] == llama.generate(PROMPT, 12)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((40, 41, 2**20, 2**21), "no token 1048576 .at position 2."),
        ((40, -1), "no token -1 .at position 1."),
        ((), "no token"),
        ((40,) * 300, "maximum context length is 256"),
    ],
)
def test_engine_refuses_ids_that_it_cannot_read(llama: TinyModel, ids: tuple[int, ...], said: str) -> None:
    end = run(llama.engine(context_length=256), ask(prompt=ids)).ends["a"]
    assert isinstance(end, Failed)
    assert re.search(said, end.message)


def test_engine_prompt_logprobs_come_once_despite_preemption(llama: TinyModel) -> None:
    engine = llama.engine(cache_tokens=192)
    submits = [
        ask(str(n), "the cat sat on the mat " * 2 + "x" * n, prompt_logprobs=True, max_tokens=70)
        for n in range(4)
    ]
    collected = run_all(engine, *submits)
    for submit in submits:
        assert submit.prompt is not None
        ids = llama.tokenizer(submit.prompt).input_ids
        expect_equal(llama, ids, 0, collected.prompts[submit.request_id])
        assert len(collected.prompts[submit.request_id]) == len(ids)


def test_engine_prompt_logprobs_need_top_logprobs(llama: TinyModel) -> None:
    submit = Submit("a", SamplingParams(), prompt="the cat", prompt_logprobs=True)
    assert isinstance(run(llama.engine(), submit).ends["a"], Failed)


@pytest.mark.parametrize(("tokens", "top"), [(200_001, 0), (100_001, 1), (10_000, 20)])
def test_too_many_log_probabilities_of_a_prompt_are_refused(tokens: int, top: int) -> None:
    check_prompt_logprobs(200_000 // (1 + top), top)
    with pytest.raises(InvalidRequest, match="too many"):
        check_prompt_logprobs(tokens, top)


def test_engine_logprobs_leave_out_the_tokens_of_a_stop_string(llama: TinyModel) -> None:
    bias = {llama.tokenizer(character).input_ids[0]: 50.0 for character in "abcdef"}
    free = run_all(llama.engine(), ask(logit_bias=bias, temperature=1.0, seed=2))
    whole = free.texts["a"]
    stop = whole[7:10]
    cut = run_all(llama.engine(), ask(logit_bias=bias, temperature=1.0, seed=2, stop=(stop,)))
    assert cut.texts["a"] == whole[: whole.index(stop)]
    assert b"".join(token.token_bytes for token in cut.tokens["a"]).decode() == cut.texts["a"]


def test_row_logprobs_of_a_wide_row_are_ordered_by_likelihood_then_id() -> None:
    logits = torch.zeros(2, 50_000, dtype=torch.bfloat16)
    logits[0, 7] = 3.0
    first, second = row_logprobs(logits, [0, 1], [9, 0], [3, 0])
    assert [token for token, _ in first.top] == [7, 0, 1]
    assert second.top == ()
    assert second.logprob == pytest.approx(-torch.tensor(50_000.0).log().item(), abs=1e-5)


class LargestResult(TorchFunctionMode):
    """Notes the most elements of a tensor that a function of torch returned."""

    elements = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_row_logprobs_of_many_rows_take_the_memory_of_a_few() -> None:
    logits = torch.zeros(60, 150_000, dtype=torch.bfloat16)
    logits[range(60), range(60)] = 1
    with LargestResult() as largest:
        found = row_logprobs(logits, range(60), range(60), [1] * 60)
    assert largest.elements < logits.numel() / 2
    assert [row.top for row in found] == [((place, found[0].logprob),) for place in range(60)]


def test_row_logprobs_are_finite_without_finite_logits() -> None:
    rows = row_logprobs(torch.tensor([[float("nan"), 1.0], [float("-inf"), 1.0]]), [0, 1], [0, 0], [2, 2])
    assert all(value > -1e4 for row in rows for value in (row.logprob, *(value for _, value in row.top)))
