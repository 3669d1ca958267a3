"""Real tiny models for the engine's tests, built once per session."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.engine.tiny import TinyModel, configs, make_tokenizer

ARCHITECTURES = ("gpt2", "llama", "qwen3", "mistral", "gemma2", "gemma3")


@pytest.fixture(scope="session", autouse=True)
def _whole_float32() -> None:
    """Convolutions on a graphics card round float32 to 19 bits otherwise, so that greedy replies differ."""
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], TinyModel]:
    """Returns the tiny model of an architecture by its name."""

    @cache
    def build(name: str) -> TinyModel:
        return TinyModel.build(configs(len(tokenizer))[name], tokenizer)

    return build


@pytest.fixture(params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """The tiny model of each architecture in turn."""
    return tiny_model(request.param)


@pytest.fixture
def llama(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return tiny_model("llama")
