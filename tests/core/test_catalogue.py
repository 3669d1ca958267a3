import jinja2
import pytest

from app.core.catalogue import CATALOGUE, DIALOGUE_TEMPLATE, find_profile, with_windows
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


def test_windows_are_limited_but_never_extended() -> None:
    lengths = {name: profile.context_length for name, profile in with_windows(CATALOGUE, 50_000).items()}
    assert (lengths["llama3-1b"], lengths["qwen3-1.7b"], lengths["gpt2"]) == (50_000, 40_960, 1024)


def test_smollm2_in_four_bits_answers_greedily() -> None:
    hub, package = CATALOGUE["smollm2-135m"].sources
    assert hub.sampling is None
    assert package.sampling is not None and package.sampling.temperature == 0


def test_base_models_stop_at_the_next_speaker() -> None:
    for name in ("gpt2", "gpt2-medium", "distilgpt2"):
        (source,) = CATALOGUE[name].sources
        assert source.chat_template is not None
        assert "\nUser:" in source.stop


def test_dialogue_template_shows_a_reply_as_the_model_wrote_it() -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": " Hi there."},
        {"role": "user", "content": "Bye"},
    ]
    template = jinja2.Environment().from_string(DIALOGUE_TEMPLATE)
    text = template.render(messages=messages, add_generation_prompt=True)
    assert text.endswith("\n\nUser: Hello\nAssistant: Hi there.\nUser: Bye\nAssistant:")
    system = template.render(messages=[{"role": "system", "content": "Be kind."}, *messages])
    assert system.startswith("Be kind.\n\nUser: Hello")


def test_find_profile_names_the_nearest() -> None:
    assert find_profile(CATALOGUE, "gpt2").name == "gpt2"
    with pytest.raises(ModelNotFound) as caught:
        find_profile(CATALOGUE, "lama3-1b")
    assert caught.value.hint is not None and "llama3-1b" in caught.value.hint
    assert "lama3-1b." not in caught.value.message


def test_find_profile_names_the_three_nearest_and_no_more() -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_profile(CATALOGUE, "llama3-1.7b")  # qwen3-1.7b is near, too
    hint, _, others = str(caught.value.hint).partition("? ")
    assert hint == "Did you mean llama3-1b, llama3-3b, smollm2-1.7b" and "qwen3-1.7b" in others


def test_builtin_is_shown_without_its_folder() -> None:
    (source,) = CATALOGUE["builtin"].sources
    assert source.is_local
    assert source.model_id == "builtin"
