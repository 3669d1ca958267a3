"""Greedy replies equal those of transformers for every architecture, alone and beside others."""

import pytest
from transformers import PreTrainedTokenizerFast

from app.engine.ipc.messages import SamplingParams, Submit
from tests.engine.own_cache.models import OwnCacheModel, unpacked
from tests.engine.tiny import Collected, configs, finish, greedy, run

LONG = "the cat sat on the mat, 日本語 and é 👍 too. " * 5
SHORT = "on the mat"


def test_two_sequences_decode_as_transformers_generates(own: OwnCacheModel) -> None:
    assert len(own.tokenizer(LONG).input_ids) > 64  # the longest chunk that a layer scans at once
    replies = run(own.engine(), greedy("long", LONG), greedy("short", SHORT))
    assert replies.texts == {"long": own.generate(LONG, 24), "short": own.generate(SHORT, 24)}


def test_two_conversations_that_alternate_reuse_their_caches(own: OwnCacheModel) -> None:
    engine, begun = own.engine(), {"a": LONG, "b": SHORT + " " + LONG}
    collected = Collected()
    for turn in range(3):
        for name, prompt in begun.items():
            engine.submit(greedy(f"{name}{turn}", prompt, 9, scope=name))
        finish(engine, collected)
        for name, prompt in begun.items():
            reply = collected.texts[f"{name}{turn}"]
            assert reply == own.generate(prompt, 9)
            begun[name] = f"{prompt}{reply} and the cat"
    for name in begun:
        assert collected.cached(f"{name}0") == 0


def test_a_prompt_that_continues_from_an_end_computes_only_the_rest(own: OwnCacheModel) -> None:
    engine = own.engine()
    first = run(engine, greedy("a", LONG, 1))
    prompt = LONG + first.texts["a"] + " and"
    length = len(own.tokenizer(prompt).input_ids)
    second = run(engine, greedy("b", prompt, 8))
    assert second.texts["b"] == own.generate(prompt, 8)
    assert length - second.cached("b") < 24
    assert run(engine, greedy("c", prompt, 8, scope="other")).cached("c") == 0


@pytest.mark.parametrize("overlaps_steps", [False, True])
def test_caches_of_a_cancelled_request_serve_the_next(own: OwnCacheModel, overlaps_steps: bool) -> None:
    engine = own.engine(overlaps_steps=overlaps_steps)
    engine.submit(greedy("a", LONG, 40))
    collected = Collected()
    while not collected.texts.get("a"):
        collected.take(engine.step())
    engine.cancel("a")
    finish(engine, collected)
    again = run(engine, greedy("b", LONG, 12))
    assert again.texts["b"] == own.generate(LONG, 12)


@pytest.mark.parametrize("overlaps_steps", [False, True])
def test_caches_of_a_reply_that_a_stop_string_ended_serve_the_next(
    own: OwnCacheModel, overlaps_steps: bool
) -> None:
    engine, whole = own.engine(overlaps_steps=overlaps_steps), own.generate(LONG, 20)
    stop = whole[len(whole) // 2 :][:2]
    sampling = SamplingParams(max_tokens=20, temperature=0, stop=(stop,))
    first = run(engine, Submit("a", sampling, prompt=LONG), greedy("b", SHORT, 20))
    assert first.texts == {"a": whole[: whole.index(stop)], "b": own.generate(SHORT, 20)}
    prompt = LONG + first.texts["a"] + " and the cat"
    assert run(engine, greedy("c", prompt, 12)).texts["c"] == own.generate(prompt, 12)


def test_eviction_and_preemption_change_no_token(own: OwnCacheModel) -> None:
    engine = own.engine(sequences=1.3)
    prompts = [LONG, SHORT, f"{SHORT} too {LONG}", f"é {LONG}", f"👍 {SHORT}"]
    replies = run(engine, *(greedy(prompt, prompt, 12) for prompt in prompts))
    assert replies.texts == {prompt: own.generate(prompt, 12) for prompt in prompts}
    assert engine.cache.used_bytes <= engine.limits.kv_cache_bytes


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_sliding_windows_are_kept_and_reused(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """These are packed otherwise; here they are served as a hybrid with such layers would be."""
    own = unpacked(configs(len(tokenizer))[name], tokenizer)
    assert not own.path.can_crop
    engine = own.engine()
    replies = run(engine, greedy("a", LONG, 12), greedy("b", SHORT, 12))
    assert replies.texts == {"a": own.generate(LONG, 12), "b": own.generate(SHORT, 12)}
    again = run(engine, greedy("c", LONG, 12), greedy("d", LONG + " and", 12))
    assert again.texts == {"c": replies.texts["a"], "d": own.generate(LONG + " and", 12)}
    assert again.cached("c") > 0.7 * len(tokenizer(LONG).input_ids) < again.cached("d")
