"""Questions about tokens are answered as the tokenizer and the template do it, beside running requests."""

from typing import Any

import pytest

from app.engine.core import EngineCore
from app.engine.ipc.messages import (
    ChatMessage,
    CountTokens,
    Detokenize,
    DetokenizedText,
    Failed,
    SamplingParams,
    Submit,
    TokenCount,
    Tokenize,
    TokenQuestion,
    Tokens,
    Tool,
    ToolUse,
)
from tests.engine.tiny import Collected, TinyModel, finish, greedy
from tests.engine.tools.test_toolbox import tool_model


def ask(engine: EngineCore, question: TokenQuestion) -> Any:  # an answer, or Failed
    engine.ask(question)
    (answer,) = engine.step()
    return answer


@pytest.mark.parametrize("text", ["the cat", "日本語 é", "", "<|end|> the"])
def test_text_becomes_tokens_and_text_again(llama: TinyModel, text: str) -> None:
    engine = llama.engine()
    tokens = ask(engine, Tokenize("q", text))
    assert isinstance(tokens, Tokens)
    assert list(tokens.token_ids) == (llama.tokenizer(text).input_ids if text else [])
    assert b"".join(tokens.token_bytes).decode() == text
    assert ask(engine, Detokenize("q", tokens.token_ids)) == DetokenizedText("q", text)


def test_special_tokens_can_be_left_out_of_a_text(llama: TinyModel) -> None:
    answer = ask(llama.engine(), Detokenize("q", (1, *llama.tokenizer("the").input_ids), True))
    assert answer == DetokenizedText("q", "the")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_unknown_token_is_refused(llama: TinyModel, token: int) -> None:
    answer = ask(llama.engine(), Detokenize("q", (1, token)))
    assert isinstance(answer, Failed)
    assert answer.code == "invalid_request"


def test_count_is_that_of_the_prompt(llama: TinyModel) -> None:
    messages = (ChatMessage("system", "be kind"), ChatMessage("user", "the cat"))
    chat = Submit("q", SamplingParams(max_tokens=1), messages=messages)
    engine, collected = llama.engine(), Collected()
    assert ask(engine, CountTokens("q", chat)).tokens > 3
    for submit in (chat, greedy("raw", "the cat", 1)):
        counted = ask(engine, CountTokens("q", submit))
        engine.submit(submit)
        finish(engine, collected)
        assert isinstance(counted, TokenCount)
        assert counted.tokens == collected.accepted[submit.request_id].prompt_tokens


def test_count_includes_the_tools_and_is_not_limited_by_the_window() -> None:
    engine = tool_model("hermes").engine()
    submit = Submit("q", SamplingParams(), messages=(ChatMessage("user", "the cat " * 400),))
    plain = ask(engine, CountTokens("q", submit)).tokens
    assert plain > engine.limits.context_length
    tools = ToolUse((Tool("weather"),))
    with_tools = Submit("q", SamplingParams(), messages=submit.messages, tool_use=tools)
    assert ask(engine, CountTokens("q", with_tools)).tokens > plain


def test_question_is_answered_while_a_request_runs(llama: TinyModel) -> None:
    engine, collected = llama.engine(), Collected()
    engine.submit(greedy("a", "the cat"))
    collected.take(engine.step())
    engine.ask(Tokenize("q", "the"))
    assert not engine.is_idle
    assert any(isinstance(message, Tokens) for message in engine.step())
    collected.texts["a"] = ""
    finish(engine, collected)
