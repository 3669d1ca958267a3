import pytest

from app.core.catalogue import CATALOGUE, find_profile
from app.core.errors import ModelNotFound


def test_catalogue_has_the_promised_models() -> None:
    promised = {"distilgpt2", "gpt2", "gpt2-medium", "llama3-1b", "llama3-3b", "builtin"}
    assert promised < set(CATALOGUE)
    assert len(set(CATALOGUE) - promised) >= 3


def test_llama_profiles_name_meta_first_and_the_open_alternative_second() -> None:
    assert [s.location for s in CATALOGUE["llama3-1b"].sources] == [
        "meta-llama/Llama-3.2-1B-Instruct",
        "microsoft/DialoGPT-medium",
    ]
    assert [s.location for s in CATALOGUE["llama3-3b"].sources] == [
        "meta-llama/Llama-3.2-3B-Instruct",
        "openai-community/gpt2-large",
    ]


def test_base_models_stop_at_the_next_speaker() -> None:
    for name in ("gpt2", "gpt2-medium", "distilgpt2"):
        (source,) = CATALOGUE[name].sources
        assert source.chat_template is not None
        assert "\nUser:" in source.stop


def test_find_profile_names_the_nearest() -> None:
    assert find_profile(CATALOGUE, "gpt2").name == "gpt2"
    with pytest.raises(ModelNotFound) as caught:
        find_profile(CATALOGUE, "lama3-1b")
    assert caught.value.hint is not None and "llama3-1b" in caught.value.hint
    assert "lama3-1b." not in caught.value.message


def test_builtin_is_shown_without_its_folder() -> None:
    (source,) = CATALOGUE["builtin"].sources
    assert source.is_local
    assert source.model_id == "builtin"
