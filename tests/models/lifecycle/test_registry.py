from pathlib import Path

import pytest

from app.core.catalogue import CATALOGUE
from app.core.errors import ModelNotFound
from app.models.lifecycle.registry import ModelRegistry


@pytest.mark.parametrize("name", ["Qwen/Qwen3-4B", "./folder", "/srv/model", "~/model"])
def test_any_model_is_found_if_allowed(name: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRegistry(CATALOGUE, allows_any=False).find(name)
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    found = registry.find(name)
    assert registry.find(name) is found
    assert found.profile.name == name
    assert found.profile.sources[0].is_local == (not name.startswith("Qwen"))
    if name == "./folder":
        assert found.profile.sources[0].location == str(Path("folder").resolve())


@pytest.mark.parametrize("name", ["gpt3", "a/b/c", "https://evil/x", "a/..", "owner/", "a b/c"])
def test_invalid_repository_names_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRegistry(CATALOGUE, allows_any=True).find(name)


def test_unused_models_beyond_the_catalogue_are_forgotten() -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    used = registry.find("used/one")
    used.pins = 1
    for number in range(200):
        registry.find(f"owner/model-{number}")
    assert len(registry.all()) <= len(CATALOGUE) + 32
    assert registry.find("used/one") is used
