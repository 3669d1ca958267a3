"""Models that are served with their own caches, loaded once per session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.engine.own_cache.models import ARCHITECTURES, OwnCacheModel, load_own


@pytest.fixture(scope="session")
def own_model(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], OwnCacheModel]:
    """Returns the model of an architecture by its name."""

    @cache
    def build(name: str) -> OwnCacheModel:
        folder: Path = tmp_path_factory.mktemp(name)
        return load_own(name, tokenizer, folder)

    return build


@pytest.fixture(params=ARCHITECTURES)
def own(request: pytest.FixtureRequest, own_model: Callable[[str], OwnCacheModel]) -> OwnCacheModel:
    """The model of each architecture in turn."""
    return own_model(request.param)
