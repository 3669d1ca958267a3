"""Architectures are served rightly or refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SmolLM3Config,
    StableLmConfig,
)

from app.core.errors import ModelUnsupported
from app.engine.loading.self_check import check_packed_path
from tests.engine.tiny import WINDOW, TinyModel, configs, greedy, new_model, run

SHAPE: dict[str, Any] = {  # arguments that the configs of all these architectures take
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SERVED: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "smollm3": (SmolLM3Config, {"num_key_value_heads": 2, "no_rope_layers": [1, 0, 1]}),
    "phi": (PhiConfig, {}),
    "phi3": (Phi3Config, {"num_key_value_heads": 2}),
    "olmo2": (Olmo2Config, {"num_key_value_heads": 2}),
    "gpt-neox": (GPTNeoXConfig, {}),
    "granite": (GraniteConfig, {"num_key_value_heads": 2}),
    "gpt-oss": (
        GptOssConfig,
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
REFUSED: dict[str, PreTrainedConfig] = {
    "falcon": FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "bloom": BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),
    "stablelm": StableLmConfig(**SHAPE, vocab_size=300, num_key_value_heads=4),
}


@pytest.mark.parametrize("name", SERVED)
def test_architecture_is_served_as_it_generates_by_itself(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    config, own = SERVED[name]
    tiny = TinyModel.build(config(**SHAPE, **own, vocab_size=len(tokenizer)), tokenizer)
    replies = run(tiny.engine(), greedy("a", "the cat sat"), greedy("b", "on the mat, 日本語"))
    assert replies.texts["a"] == tiny.generate("the cat sat", 24)
    assert replies.texts["b"] == tiny.generate("on the mat, 日本語", 24)


def test_attention_sinks_are_computed_in_a_pool_too(tokenizer: PreTrainedTokenizerFast) -> None:
    config, own = SERVED["gpt-oss"]
    tiny = TinyModel.build(config(**SHAPE, **own, vocab_size=len(tokenizer)), tokenizer)
    pooled = replace(tiny, uses_pool=True)
    replies = run(pooled.engine(), greedy("a", "the cat sat"), greedy("b", "on the mat, 日本語"))
    assert replies.texts["a"] == tiny.generate("the cat sat", 24)
    assert replies.texts["b"] == tiny.generate("on the mat, 日本語", 24)


@pytest.mark.parametrize("name", REFUSED)
def test_architecture_that_would_be_served_wrongly_is_refused(name: str) -> None:
    model = new_model(REFUSED[name])
    with pytest.raises(ModelUnsupported) as refusal:
        check_packed_path(model)
    assert "another architecture" in (refusal.value.hint or "")


def test_check_reports_its_stages(tokenizer: PreTrainedTokenizerFast) -> None:
    stages: list[tuple[str, float]] = []
    model = new_model(configs(len(tokenizer))["llama"])
    check_packed_path(model, report=lambda *stage: stages.append(stage))
    assert (stages[0], stages[-2:]) == (("pack", 0.0), [("pack", 1.0), ("check", 0.5)])
