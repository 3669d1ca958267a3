"""A model whose weights are stored in 16 bits computes as one whose weights were widened before."""

import copy

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from app.core.literals import Quantization
from app.engine.ipc.messages import Finished
from app.engine.layers.packed_linear import PackedLinear
from app.engine.loading.self_check import check_packed_path
from tests.engine.conftest import ARCHITECTURES
from tests.engine.tiny import TinyModel, configs, greedy, new_model, run

PROMPT = "sat on the mat, and then the cat sat on it"


def stored_in_bfloat16(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedModel:
    return new_model(configs(len(tokenizer))[name], torch.bfloat16)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prepare_widens_what_is_stored_in_bfloat16(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    packed = stored_in_bfloat16(tokenizer, name)
    reference = copy.deepcopy(packed).to(torch.float32)  # type: ignore[arg-type]  # wrapped by transformers
    bytes_per_token = check_packed_path(packed, torch.float32).bytes_per_token
    tiny = TinyModel(reference, packed, tokenizer, bytes_per_token)
    assert run(tiny.engine(), greedy("a", PROMPT)).texts["a"] == tiny.generate(PROMPT, 24)
    assert tiny.bytes_per_token == TinyModel.build(reference.config, tokenizer).bytes_per_token


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prepare_quantises(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    packed = stored_in_bfloat16(tokenizer, name)
    path = check_packed_path(packed, torch.float32, "int8")
    layers = [type(module) for module in packed.modules()]
    assert not {torch.nn.Linear, PackedLinear} & set(layers)
    tiny = TinyModel(packed, packed, tokenizer, path.bytes_per_token)
    assert path.weights == "int8"
    chunked = run(tiny.engine(step_tokens=3), greedy("a", PROMPT))  # passes of which no logits are wanted
    assert isinstance(chunked.ends["a"], Finished)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_logits_of_few_bits_are_not_rounded_to_16_bits(
    tokenizer: PreTrainedTokenizerFast, quantization: Quantization
) -> None:
    model = stored_in_bfloat16(tokenizer, "llama")
    check_packed_path(model, torch.bfloat16, quantization)
    rows = torch.ones(1, model.config.hidden_size, dtype=torch.bfloat16)
    assert model.lm_head(rows).dtype == torch.float32


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prepare_tells_how_much_is_packed(
    tokenizer: PreTrainedTokenizerFast, name: str, quantization: Quantization
) -> None:
    stages: list[tuple[str, float]] = []
    model = stored_in_bfloat16(tokenizer, name)
    check_packed_path(model, torch.float32, quantization, lambda *stage: stages.append(stage))
    shares = [fraction for stage, fraction in stages if stage == "pack"]
    assert shares == sorted(shares)
    assert len(set(shares)) > model.config.get_text_config().num_hidden_layers
    assert shares[-2:] == [1.0, 1.0]  # the last layer, and the end
