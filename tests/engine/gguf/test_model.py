"""A model read from a GGUF file computes what the model computes that the file was written from."""

import math
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.engine.gguf.config import config_of
from app.engine.gguf.file import read as read_file
from app.engine.ipc.messages import WorkerSpec
from app.engine.layers.blocks import BlockLinear
from app.engine.layers.schemes import relative_error
from app.engine.loading.load import LoadedModel, load
from app.engine.loading.self_check import check_packed_path
from tests.engine.gguf.files import CONFIGS, tiny_model, write
from tests.engine.gguf.smollm2 import needs_smollm2, smollm2

IDS = torch.tensor([[7, 38, 131, 286, 5, 70, 12, 99, 1, 44, 203, 11]])


def loaded(path: Path) -> LoadedModel:
    return load(WorkerSpec(str(path), "tiny", dtype="float32"), lambda *stage: None)


@torch.inference_mode()
def logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    values = model(input_ids=ids, use_cache=False).logits
    assert isinstance(values, torch.Tensor)
    return values


def rounded(model: PreTrainedModel, kind: Kind) -> PreTrainedModel:
    """Rounds the matrices of the model as blocks of that kind do. Returns the model."""
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 2:
                value.copy_(torch.from_numpy(dequantize(quantize(value.numpy(), kind), kind)))
    return model


@pytest.mark.parametrize("architecture", CONFIGS)
def test_model_of_a_file_computes_the_same(tmp_path: Path, architecture: str) -> None:
    own = tiny_model(architecture)
    read = loaded(write(tmp_path / "tiny.gguf", own, architecture))
    assert relative_error(logits(read.model), logits(own)) < 1e-5
    check_packed_path(read.model, torch.float32)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.F16, Kind.BF16])
def test_blocks_keep_the_values_of_the_file(tmp_path: Path, kind: Kind) -> None:
    own = tiny_model("llama")
    read = loaded(write(tmp_path / "tiny.gguf", own, "llama", kind))
    assert relative_error(logits(read.model), logits(rounded(own, kind))) < 1e-5


@pytest.mark.parametrize(
    ("kind", "weights"), [(Kind.Q4_0, "int4 (Q4_0)"), (Kind.Q4_1, "int4 (Q4_1)"), (Kind.Q5_1, "int8 (Q5_1)")]
)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_packed_model_keeps_the_bits_of_its_file(
    tmp_path: Path, architecture: str, kind: Kind, weights: str
) -> None:
    read = loaded(write(tmp_path / "tiny.gguf", tiny_model(architecture), architecture, kind))
    assert check_packed_path(read.model, torch.float32).weights == weights
    assert not any(isinstance(module, BlockLinear | torch.nn.Linear) for module in read.model.modules())


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_output_layer_may_share_the_embedding(tmp_path: Path, architecture: str) -> None:
    own = tiny_model(architecture, is_tied=True)
    read = loaded(write(tmp_path / "tiny.gguf", own, architecture, Kind.Q8_0))
    assert relative_error(logits(read.model), logits(rounded(own, Kind.Q8_0))) < 1e-5


def test_biases_of_queries_and_keys_are_reordered_with_their_weights(tmp_path: Path) -> None:
    own = tiny_model("llama", has_bias=True)
    read = loaded(write(tmp_path / "tiny.gguf", own, "llama", Kind.Q8_0))
    assert relative_error(logits(read.model), logits(rounded(own, Kind.Q8_0))) < 1e-5


def llama3_factors(rope: dict[str, float], dim: int) -> list[float]:
    """Returns the divisors of the rotary frequencies that llama.cpp's converter writes for Llama 3.1."""
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        turns = original / (2 * math.pi * rope["rope_theta"] ** (i / dim))  # within the original context
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def test_rotary_factors_are_those_of_llama_3(tmp_path: Path) -> None:
    rope = {
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    own = tiny_model("llama", rope_parameters={"rope_type": "llama3", **rope})
    factors = llama3_factors(rope, own.config.head_dim)
    assert min(factors) == 1 and max(factors) == 8
    read = loaded(write(tmp_path / "tiny.gguf", own, "llama", rope_factors=factors))
    ids = IDS.repeat(1, 8)  # beyond the original context
    assert relative_error(logits(read.model, ids), logits(own, ids)) < 1e-5
    check_packed_path(read.model, torch.float32)


def test_model_in_several_files_is_read_whole(tmp_path: Path) -> None:
    own = tiny_model("llama")
    write(tmp_path / "tiny.gguf", own, "llama", Kind.Q8_0, tensors_in_a_file=5)
    parts = sorted(tmp_path.iterdir())
    assert parts[0].name == f"tiny-00001-of-{len(parts):05}.gguf"
    for part in (parts[0], parts[-1]):  # any of them names the model
        assert relative_error(logits(loaded(part).model), logits(rounded(own, Kind.Q8_0))) < 1e-5
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelCorrupt, match="one of several files"):
        loaded(tmp_path / "renamed.gguf")


def test_ollamas_file_of_gemma3_is_read_without_its_part_for_images(tmp_path: Path) -> None:
    rope = {"full_attention": (1e6, "default"), "sliding_attention": (1e4, "default")}
    parameters = {name: {"rope_theta": base, "rope_type": kind} for name, (base, kind) in rope.items()}
    own = tiny_model("gemma3", rope_parameters=parameters)
    read = loaded(write(tmp_path / "tiny.gguf", own, "gemma3", is_ollamas=True))
    assert relative_error(logits(read.model), logits(own)) < 1e-5


def test_long_gemma3_stretches_its_positions_also_if_the_file_does_not_say_so(tmp_path: Path) -> None:
    own = tiny_model("gemma3")
    own.config.max_position_embeddings = 131_072
    config = config_of(read_file(write(tmp_path / "tiny.gguf", own, "gemma3", is_ollamas=True)))
    full = config.rope_parameters["full_attention"]
    assert (full["rope_type"], full["factor"], full["rope_theta"]) == ("linear", 8.0, 1e6)


def test_tensor_in_two_files_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", tiny_model("llama"), "llama", tensors_in_a_file=5)
    parts = sorted(tmp_path.iterdir())
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(ModelCorrupt, match="tensor of one name"):
        loaded(parts[0])


def test_special_tokens_and_template_come_from_the_file(tmp_path: Path) -> None:
    read = loaded(write(tmp_path / "tiny.gguf", tiny_model("llama"), "llama"))
    assert read.tokenizer.decode(sorted(read.stop_ids)) == "<|end|>"
    assert read.tokenizer.chat_template is not None
    assert read.context_length == 160


def test_missing_tensor_is_corrupt(tmp_path: Path) -> None:
    own = tiny_model("llama")
    del own.get_submodule("model.norm").weight
    with pytest.raises(ModelCorrupt, match=r"1 weights are missing, such as model\.norm\.weight"):
        loaded(write(tmp_path / "tiny.gguf", own, "llama"))


def test_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    path.write_bytes(path.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(ModelUnsupported, match="'mamba'"):
        loaded(path)


@needs_smollm2
def test_smollm2_has_the_logits_of_transformers_own_loader() -> None:
    path = str(smollm2())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its tensors are views of read-only memory
        facts = load_gguf_checkpoint(path)  # type: ignore[no-untyped-call]
        reference = LlamaForCausalLM(LlamaConfig(**facts["config"]))
        read_whole = partial(load_gguf_checkpoint, path, return_tensors=True)
        reference.load_state_dict(read_whole(model_to_load=reference)["tensors"], strict=False)
    reference.tie_weights()
    reference.train(False)
    read = loaded(smollm2())
    ids = torch.tensor([read.tokenizer.encode("The capital of France is Paris. 12 + 30 = 42, isn't it?")])
    assert relative_error(logits(read.model, ids), logits(reference, ids)) < 0.01


@needs_smollm2
def test_smollm2_passes_the_check_at_load() -> None:
    spec = WorkerSpec(str(smollm2()), "tiny", dtype="bfloat16")
    model = load(spec, lambda *stage: None).model
    assert check_packed_path(model).weights == "int4 (Q4_1), int8 (Q8_0)"
    rows = torch.ones(1, model.config.hidden_size, dtype=torch.bfloat16)
    assert model.lm_head(rows).dtype == torch.float32  # in 16 bits the likeliest tokens tie


def test_longrope_factors_are_those_of_phi_3(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0 + i / 4 for i in range(4)], "long_factor": [2.0 + i for i in range(4)]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5, **factors}
    own = tiny_model("phi3", rope_parameters=rope | {"original_max_position_embeddings": 80})
    path = write(tmp_path / "tiny.gguf", own, "phi3")
    read = loaded(path)
    assert relative_error(logits(read.model), logits(own)) < 1e-5
    assert read.context_length == 80  # beyond it, packed sequences would change each other's positions
    assert read.model.model.rotary_emb.attention_scaling > 1
    check_packed_path(read.model, torch.float32)


def longrope_file(path: Path, original: int) -> Path:
    """Writes a Phi 3 with a context window of 160 tokens that says it was first trained with another one."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5, **factors}
    own = tiny_model("phi3", rope_parameters=rope | {"original_max_position_embeddings": 80})
    own.config.rope_parameters["original_max_position_embeddings"] = original
    return write(path, own, "phi3")


@pytest.mark.parametrize("original", [0, 1])
def test_longrope_that_would_divide_by_zero_is_refused(tmp_path: Path, original: int) -> None:
    with pytest.raises(ModelCorrupt, match="original_context_length must be a whole number from 2"):
        loaded(longrope_file(tmp_path / "tiny.gguf", original))


def test_longrope_does_not_lengthen_the_context_window(tmp_path: Path) -> None:
    assert loaded(longrope_file(tmp_path / "tiny.gguf", 100_000)).context_length == 160


def test_later_models_under_a_known_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model("olmo2"), "olmo2", sliding_window=8)
    with pytest.raises(ModelUnsupported, match="OLMo 3"):
        config_of(read_file(path))


@pytest.mark.parametrize("architecture", ["phi3", "starcoder2"])
def test_config_is_that_of_transformers_own_loader(tmp_path: Path, architecture: str) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model(architecture), architecture)
    facts = load_gguf_checkpoint(str(path))["config"]  # type: ignore[no-untyped-call]
    own = config_of(read_file(path))
    names = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "norm_epsilon"}
    shared = names | {"num_key_value_heads", "max_position_embeddings", "rms_norm_eps"}
    assert {name: getattr(own, name) for name in shared & facts.keys()} == {
        name: facts[name] for name in shared & facts.keys()
    }
