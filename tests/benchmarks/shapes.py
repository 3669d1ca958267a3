"""The shapes of the generated models: real ones, and small ones of the same kinds for a quick run."""

from dataclasses import dataclass, replace
from typing import Any

from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from app.core.catalogue import BUILTIN_NAME, CATALOGUE, Source
from app.core.config import DEFAULT_CONTEXT_LENGTH
from tests.benchmarks.vocabulary import SPECIAL

_END_ID = 1
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Shape:
    """A model to generate. `name` is its name in the catalogue, where its first source names the folder."""

    name: str
    config: PreTrainedConfig

    @property
    def source(self) -> Source:
        return CATALOGUE[self.name].sources[0]

    @property
    def context_length(self) -> int:
        return min(DEFAULT_CONTEXT_LENGTH, int(self.config.max_position_embeddings))

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)


def _gpt2(**shape: Any) -> PreTrainedConfig:  # Any: sizes; the configs have other fields, too
    assert SPECIAL[_END_ID] == "<|end|>"
    return GPT2Config(**shape, bos_token_id=0, eos_token_id=_END_ID)


def _llama(**shape: Any) -> PreTrainedConfig:  # Any: sizes; the configs have other fields, too
    return LlamaConfig(
        **shape,
        max_position_embeddings=131_072,
        rope_parameters=dict(_LLAMA3_ROPE),
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=_END_ID,
    )


GPT2 = Shape("gpt2", _gpt2())
DISTILGPT2 = Shape("distilgpt2", _gpt2(n_layer=6))
LLAMA_1B = Shape(
    "llama3-1b",
    _llama(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
    ),
)
SMALL_GPT2 = replace(GPT2, config=_gpt2(vocab_size=4096, n_embd=128, n_layer=2, n_head=4))
SMALL_LLAMA = replace(
    LLAMA_1B,
    config=_llama(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    ),
)
PARTNER = replace(SMALL_GPT2, name="distilgpt2")  # the other model of a switch

FULL = {shape.name: shape for shape in (GPT2, LLAMA_1B)}
SMALL = {shape.name: shape for shape in (SMALL_GPT2, SMALL_LLAMA)}
NAMES = (*FULL, BUILTIN_NAME)
