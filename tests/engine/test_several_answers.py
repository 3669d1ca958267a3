"""Several answers to one prompt compute it once, whatever the size of a step, also with a form and tools."""

import pytest

from app.engine.ipc.messages import Grammar, SamplingParams, Submit
from tests.engine.tiny import TinyModel, ended, greedy, run

PROMPT = "the cat sat on the mat, 日本語 the cat sat" * 8


@pytest.mark.parametrize("step_tokens", [16, 64, 256])
@pytest.mark.parametrize("grammar", [None, Grammar("regex", "[a-z ]{3,9}")])
def test_engine_computes_the_prompt_of_several_answers_once(
    llama: TinyModel, step_tokens: int, grammar: Grammar | None
) -> None:
    engine = llama.engine(step_tokens=step_tokens)
    prompt_tokens = len(llama.tokenizer(PROMPT).input_ids)
    assert prompt_tokens > 80
    submits = [
        Submit(
            str(index),
            SamplingParams(max_tokens=12, temperature=1.0, seed=index),
            prompt=PROMPT,
            grammar=grammar,
            is_kept=index == 0,
        )
        for index in range(6)
    ]
    collected = run(engine, *submits)
    assert collected.cached("0") == 0
    assert all(collected.cached(str(index)) > prompt_tokens - 16 for index in range(1, 6))
    assert len(set(collected.texts.values())) > 1
    for submit in submits:  # each as if it were alone
        alone = run(llama.engine(), submit)
        assert alone.texts[submit.request_id] == collected.texts[submit.request_id]


def test_engine_computes_the_prompt_of_several_answers_once_beside_other_requests(llama: TinyModel) -> None:
    engine = llama.engine(step_tokens=32, max_active_requests=16)
    several = [
        Submit(f"n{index}", SamplingParams(max_tokens=8, temperature=1.0, seed=index), prompt=PROMPT)
        for index in range(4)
    ]
    collected = run(engine, greedy("before", "the cat", 20), *several, greedy("after", "sat on the mat", 20))
    assert sum(collected.cached(submit.request_id) > 80 for submit in several) == 3
    assert collected.texts["before"] == llama.generate("the cat", 20)
    assert collected.texts["after"] == llama.generate("sat on the mat", 20)
    assert ended(collected, "n0").usage.completion_tokens > 0
