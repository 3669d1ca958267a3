"""An architecture that is refused is refused with a reason that is true and that helps."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import (
    Gemma4AssistantConfig,
    Gemma4TextConfig,
    MusicgenConfig,
    MusicgenMelodyConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from app.core.errors import ModelUnsupported
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.serving_path import load_checked
from tests.engine.architectures.tiny_configs import tiny_config
from tests.engine.architectures.trial import save_tiny
from tests.engine.tiny import configs, new_model


def _refusal(folder: Path) -> ModelUnsupported:
    with pytest.raises(ModelUnsupported) as refusal:
        load_checked(WorkerSpec(str(folder), "tiny", device="cpu", dtype="float32"), lambda *stage: None)
    return refusal.value


def _save_with_weights_of_another(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)


@pytest.mark.parametrize("architecture", ["cpmant", "prophetnet", "xlnet"])
def test_architecture_that_looks_ahead_is_refused_for_that(
    architecture: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_tiny(architecture, tokenizer, tmp_path)
    refusal = _refusal(tmp_path)
    assert "reads a whole text at once" in refusal.message
    assert refusal.hint is not None and refusal.hint.startswith("Choose a model of another architecture")


@pytest.mark.skipif(find_spec("timm") is not None, reason="the packages are installed")
def test_architecture_that_needs_packages_names_them(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _save_with_weights_of_another(tiny_config("gemma3n", len(tokenizer)), tokenizer, tmp_path)
    refusal = _refusal(tmp_path)
    assert refusal.message == "gemma3n needs packages that are not installed: pillow timm"
    assert refusal.hint == "pip install pillow timm"


def test_model_that_drafts_for_another_is_refused_for_that(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    text = Gemma4TextConfig(
        hidden_size_per_layer_input=0, vocab_size_per_layer_input=0, num_hidden_layers=2, hidden_size=32
    )
    _save_with_weights_of_another(Gemma4AssistantConfig(text_config=text), tokenizer, tmp_path)
    assert "only drafts tokens for another model" in _refusal(tmp_path).message


@pytest.mark.parametrize("config", [MusicgenConfig, MusicgenMelodyConfig])
def test_model_that_makes_sound_is_refused_as_no_language_model(
    config: type[PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _save_with_weights_of_another(config(), tokenizer, tmp_path)
    assert "is not a causal language model" in _refusal(tmp_path).message
