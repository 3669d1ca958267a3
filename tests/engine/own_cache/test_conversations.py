"""Each turn of a conversation continues from a cache of the turns before it."""

from itertools import pairwise
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit, TokenCounts
from tests.engine.own_cache.models import OwnCacheModel, load_own
from tests.engine.tiny import ended, make_tokenizer, run

MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n"
LFM2 = (  # without tools
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    f"{OPENING}{{% endif %}}"
)
QWEN3_5 = (  # as above; history has no thinking, not even the empty one after which a reply is written
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    f"{OPENING}<think>\n\n</think>\n\n{{% endif %}}"
)


ARCHITECTURES = pytest.mark.parametrize("name", ["qwen3_5_text", "lfm2", "mamba2"])


def chatting(name: str, template: str, folder: Path) -> OwnCacheModel:
    """Returns a model of the architecture with this chat template."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = template
    return load_own(name, tokenizer, folder)


def letters_only(tokenizer: PreTrainedTokenizerFast) -> dict[int, float]:
    """Returns a bias against all tokens but parts of words, some of which the tokenizer would join."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return {token: -100.0 for token, name in enumerate(names) if not (name.isascii() and name.isalpha())}


def talk(own: OwnCacheModel, said: list[str]) -> list[TokenCounts]:
    """Returns the usage of each turn."""
    engine, bias = own.engine(), letters_only(own.tokenizer)
    messages: list[ChatMessage] = []
    sampling = SamplingParams(max_tokens=30, temperature=1, seed=1, logit_bias=bias)
    usages = []
    for message in said:
        messages.append(ChatMessage("user", message))
        replies = run(engine, Submit("a", sampling, tuple(messages)))
        messages.append(ChatMessage("assistant", replies.texts["a"]))
        usages.append(ended(replies).usage)
    return usages


@ARCHITECTURES
def test_short_messages_continue_from_the_end_of_each_reply(name: str, tmp_path: Path) -> None:
    usages = talk(chatting(name, LFM2, tmp_path), ["Hi", "And?", "Go on"])
    assert usages[0].cached_tokens == 0
    for earlier, later in pairwise(usages):
        assert later.cached_tokens == earlier.prompt_tokens + earlier.completion_tokens - 1


@ARCHITECTURES
def test_history_without_thinking_continues_from_before_the_reply(name: str, tmp_path: Path) -> None:
    usages = talk(chatting(name, QWEN3_5, tmp_path), ["Hi", "And?", "Go on", "And then?"])
    for earlier, later in pairwise(usages):
        assert later.cached_tokens >= earlier.prompt_tokens - 48
