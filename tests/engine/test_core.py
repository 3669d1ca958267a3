"""What the engine reports for a request, and how the request ends."""

import copy
from dataclasses import replace

import pytest
from tokenizers import decoders

from app.engine.admission import ChatFormat
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Deltas,
    Failed,
    Finished,
    SamplingParams,
    Submit,
)
from tests.engine.out_of_memory import OutOfMemory
from tests.engine.tiny import WINDOW, Collected, TinyModel, ended, finish, greedy, run


def test_engine_reports_acceptance_usage_and_timings(llama: TinyModel) -> None:
    collected = run(llama.engine(), greedy("a", "the cat sat", 5))
    prompt_tokens = len(llama.tokenizer("the cat sat").input_ids)
    assert collected.accepted["a"] == Accepted("a", prompt_tokens, 0, 5)
    end = ended(collected)
    assert (end.finish_reason, end.usage.prompt_tokens, end.usage.completion_tokens) == (
        "length",
        prompt_tokens,
        5,
    )
    assert 0 <= end.timings.queue_s <= end.timings.first_token_s <= end.timings.total_s


def test_engine_stop_id_ends_the_reply(llama: TinyModel) -> None:
    """If the first token ends the reply, it has no text."""
    first_id = llama.generate_ids("the cat", 1)[0]
    llama.packed.generation_config.eos_token_id = [1, first_id]
    try:
        collected = run(llama.engine(), greedy("a", "the cat"))
    finally:
        llama.packed.generation_config.eos_token_id = 1
    assert (ended(collected).finish_reason, collected.texts["a"]) == ("stop", "")
    assert ended(collected).usage.completion_tokens == 1


def test_engine_stop_string_is_cut(llama: TinyModel) -> None:
    whole = run(llama.engine(), greedy("a", "the cat", 24)).texts["a"]
    stop = whole[6:9]
    sampling = SamplingParams(max_tokens=24, temperature=0, stop=(stop,))
    collected = run(llama.engine(), Submit("a", sampling, prompt="the cat"))
    assert collected.texts["a"] == whole[: whole.index(stop)]
    assert (ended(collected).finish_reason, ended(collected).matched_stop) == ("stop", stop)


def test_engine_chat_format_stop_strings_belong_to_chats(llama: TinyModel) -> None:
    chat = Submit(
        "chat", SamplingParams(max_tokens=24, temperature=0), messages=(ChatMessage("user", "the cat"),)
    )
    whole = run(llama.engine(), chat).texts["chat"]
    engine = llama.engine(chat_format=ChatFormat(stop=(whole[4:6],)))
    collected = run(engine, chat, greedy("raw", "the cat"))
    assert collected.texts["chat"] == whole[: whole.index(whole[4:6])]
    assert ended(collected, "chat").matched_stop is None
    assert ended(collected, "raw").finish_reason == "length"


def test_engine_types_the_deltas_of_a_reply_that_begins_with_thinking(llama: TinyModel) -> None:
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}<think>"
    engine = replace(llama, tokenizer=tokenizer).engine()
    sampling = SamplingParams(max_tokens=24, temperature=0)
    engine.submit(Submit("chat", sampling, messages=(ChatMessage("user", "the cat"),)))
    engine.submit(Submit("raw", sampling, prompt="the cat<think>"))
    texts: dict[tuple[str, str], str] = {}
    while not engine.is_idle:
        for message in engine.step():
            for delta in message.items if isinstance(message, Deltas) else ():
                key = (delta.request_id, delta.kind)
                texts[key] = texts.get(key, "") + delta.text
    assert set(texts) == {("chat", "thinking"), ("raw", "text")}
    assert texts["chat", "thinking"] == texts["raw", "text"].lstrip("\n")


def without_first_space(tiny: TinyModel) -> TinyModel:
    """The model with a tokenizer that decodes no space before the first word of a text."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return replace(tiny, tokenizer=tokenizer)


@pytest.mark.parametrize("continues", [True, False])
def test_engine_reply_joins_the_text_that_it_continues(llama: TinyModel, continues: bool) -> None:
    chat = (ChatMessage("user", "the cat"), ChatMessage("assistant", "sat"))
    submits = [
        Submit(
            str(seed),
            SamplingParams(max_tokens=1, temperature=2, seed=seed),
            messages=chat[: 1 + continues],
            continue_final_message=continues,
        )
        for seed in range(100)
    ]
    texts = run(without_first_space(llama).engine(), *submits).texts.values()
    assert any(text.startswith(" ") for text in texts) == continues


def test_engine_raw_reply_joins_its_prompt(llama: TinyModel) -> None:
    submits = [
        Submit(str(seed), SamplingParams(max_tokens=1, temperature=2, seed=seed), prompt="the cat")
        for seed in range(100)
    ]
    texts = run(without_first_space(llama).engine(), *submits).texts.values()
    assert any(text.startswith(" ") for text in texts)


def test_engine_reply_cut_by_its_length_ends_with_a_whole_character(llama: TinyModel) -> None:
    """For every length of a reply that has broken characters in its middle."""
    whole = run(llama.engine(), greedy("a", "日本語 é 👍", 24)).texts["a"]
    assert "\ufffd" in whole[:-1]
    for length in range(1, 24):
        text = run(llama.engine(), greedy("a", "日本語 é 👍", length)).texts["a"]
        assert whole.startswith(text)


def test_engine_ends_at_the_window(llama: TinyModel) -> None:
    collected = run(llama.engine(), Submit("a", SamplingParams(temperature=0), prompt="x" * 150))
    usage = ended(collected).usage
    assert usage.prompt_tokens + usage.completion_tokens == WINDOW
    assert ended(collected).finish_reason == "length"


@pytest.mark.parametrize(
    ("submit", "code"),
    [
        (Submit("a", SamplingParams(temperature=float("nan")), prompt="x"), "invalid_request"),
        (Submit("a", SamplingParams(max_tokens=-1), prompt="x"), "invalid_request"),
        (Submit("a", SamplingParams()), "invalid_request"),
        (Submit("a", SamplingParams(), prompt="x" * 500), "context_length_exceeded"),
        (Submit("a", SamplingParams(), prompt="\ud800"), "internal_error"),  # what no transport would carry
    ],
)
def test_engine_bad_requests_fail_before_acceptance(llama: TinyModel, submit: Submit, code: str) -> None:
    engine = llama.engine()
    collected = run(engine, greedy("good", "the cat", 4), submit)
    failure = collected.ends["a"]
    assert isinstance(failure, Failed)
    assert failure.code == code
    assert "a" not in collected.accepted
    assert ended(collected, "good").finish_reason == "length"


def test_engine_second_request_of_an_id_fails_and_the_first_goes_on(llama: TinyModel) -> None:
    engine = llama.engine()
    engine.submit(greedy("a", "the cat", 4))
    engine.submit(greedy("a", "the cat", 4))
    kinds = [type(message) for message in engine.step() if not isinstance(message, Deltas)]
    assert kinds == [Accepted, Failed]
    while not engine.is_idle:
        messages = engine.step()
    assert isinstance(messages[-1], Finished)


def test_engine_cancel_takes_effect_within_a_step(llama: TinyModel) -> None:
    engine, collected = llama.engine(max_active_requests=1), Collected()
    engine.submit(greedy("running", "the cat", 100))
    engine.submit(greedy("waiting", "the cat", 100))
    collected.take(engine.step())
    collected.take(engine.step())
    engine.cancel("running")
    engine.cancel("waiting")
    engine.cancel("unknown")
    last = engine.step()
    assert [type(message) for message in last] == [Finished, Finished]
    collected.take(last)
    assert ended(collected, "running").finish_reason == "cancelled"
    assert ended(collected, "waiting").usage.completion_tokens == 0
    finish(engine, collected)


def test_engine_failed_pass_fails_its_requests_and_goes_on(llama: TinyModel) -> None:
    engine, collected = llama.engine(), Collected()
    hook = llama.packed.get_input_embeddings().register_forward_pre_hook(_break_down)
    engine.submit(greedy("a", "the cat", 4))
    try:
        collected.take(engine.step())
    finally:
        hook.remove()
    assert isinstance(collected.ends["a"], Failed)
    assert collected.ends["a"].code == "internal_error"
    assert run(engine, greedy("b", "the cat", 4)).texts["b"] == llama.generate("the cat", 4)


def test_engine_drops_finished_slots_when_memory_runs_out(llama: TinyModel) -> None:
    engine = llama.engine()
    run(engine, greedy("kept", "the cat sat on the mat"))
    with OutOfMemory(longest=0, times=1) as device:
        collected = run(engine, greedy("a", "the cat sat", 8))
    assert device.left == 0
    assert collected.texts["a"] == llama.generate("the cat sat", 8)
    assert collected.cached("a") == 0


def test_engine_fails_only_the_request_that_memory_has_no_room_for(llama: TinyModel) -> None:
    engine = llama.engine()
    with OutOfMemory(longest=64, times=100) as device:
        collected = run(engine, greedy("short", "the cat", 20), greedy("long", "the cat sat " * 5, 100))
    assert device.left < 100
    assert isinstance(collected.ends["long"], Failed)
    assert collected.texts["short"] == llama.generate("the cat", 20)
    assert run(engine, greedy("b", "sat on", 4)).texts["b"] == llama.generate("sat on", 4)


def test_engine_fails_a_new_request_whose_prefix_cannot_be_copied(llama: TinyModel) -> None:
    engine, collected = llama.engine(), Collected()
    engine.submit(greedy("running", "the cat sat on the mat", 20))
    collected.take(engine.step())
    engine.submit(greedy("new", "the cat sat on the mat", 20))
    with OutOfMemory(longest=0, times=2):
        collected.take(engine.step())
    finish(engine, collected)
    assert isinstance(collected.ends["new"], Failed)
    assert collected.texts["running"] == llama.generate("the cat sat on the mat", 20)


def test_engine_seed_gives_the_same_text_in_any_batch(llama: TinyModel) -> None:
    def seeded(request_id: str) -> Submit:
        sampling = SamplingParams(max_tokens=20, temperature=1.0, top_p=0.9, seed=11)
        return Submit(request_id, sampling, prompt="the cat")

    alone = run(llama.engine(), seeded("a")).texts["a"]
    others = [
        Submit(str(number), SamplingParams(max_tokens=9, temperature=1.2, top_k=number), prompt="sat on")
        for number in range(5)
    ]
    together = run(llama.engine(step_tokens=7), others[0], seeded("a"), *others[1:], seeded("b")).texts
    assert together["a"] == together["b"] == alone
    assert (
        alone != run(llama.engine(), Submit("a", SamplingParams(max_tokens=20), prompt="the cat")).texts["a"]
    )


def test_engine_computes_a_prompt_once_if_several_requests_send_it_together(llama: TinyModel) -> None:
    prompt = "the cat sat on the mat, and then " * 4
    collected = run(llama.engine(step_tokens=16), *(greedy(name, prompt, 4) for name in "abc"))
    tokens = len(llama.tokenizer(prompt).input_ids)
    assert [collected.cached(name) for name in "abc"][0] == 0
    assert min(collected.cached(name) for name in "bc") >= tokens - 64
    assert set(collected.texts.values()) == {llama.generate(prompt, 4)}


def test_engine_scopes_share_nothing(llama: TinyModel) -> None:
    engine = llama.engine()
    run(engine, greedy("a", "the cat sat on the mat", scope="x"))
    assert run(engine, greedy("b", "the cat sat on the mat", scope="y")).cached("b") == 0
    assert run(engine, greedy("c", "the cat sat on the mat", scope="x")).cached("c") > 0


def _break_down(*_: object) -> None:
    raise RuntimeError("a device that fails")
