import json
from pathlib import Path

import pytest

from app.core.catalogue import SamplingDefaults
from app.models.hub.generation_config import generation_config_of


def test_recommended_parameters_are_read(tmp_path: Path) -> None:
    written = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "repetition_penalty": 1.05}
    (tmp_path / "generation_config.json").write_text(json.dumps(written | {"do_sample": True, "x": 1}))
    assert generation_config_of(tmp_path) == SamplingDefaults(None, 0.6, 0.95, 20, 0, 1.05)


@pytest.mark.parametrize("value", [-1, 10**9, "0.5", [1], True, None, float("nan"), float("inf")])
def test_impossible_values_are_ignored(tmp_path: Path, value: object) -> None:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    (tmp_path / "generation_config.json").write_text(json.dumps(dict.fromkeys(names, value)))
    assert generation_config_of(tmp_path) == SamplingDefaults()


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_file_that_is_missing_or_broken_recommends_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    assert generation_config_of(tmp_path) == SamplingDefaults()
