"""A model is computed in the dtype of its weights, and numbers that the dtype cannot hold are named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.engine.ipc.messages import WorkerSpec
from app.engine.layers.packed_linear import computes_in_bfloat16
from app.engine.loading.device_choice import pick_dtype
from app.engine.loading.load import LoadedModel, load
from app.engine.loading.stored_tensors import stored_dtype
from app.engine.startup import build_engine
from tests.engine.tiny import configs, new_model

CPU = torch.device("cpu")
LARGE = 100_000.0  # more than float16 holds
FAST_HALF = torch.bfloat16 if computes_in_bfloat16() else torch.float32


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny Llama in float32."""
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | change, path, metadata={"format": "pt"})


def convert(folder: Path, dtype: torch.dtype, *, but: str = "nothing") -> None:
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {name: value.to(dtype) for name, value in weights.items() if but not in name})


def claim(folder: Path, dtype: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": dtype}))


def loaded(folder: Path) -> LoadedModel:
    return load(WorkerSpec(str(folder), "tiny"), lambda *_: None)


@pytest.mark.parametrize("claimed", ["bfloat16", "float16"])
def test_float32_weights_are_not_rounded_to_what_the_config_says(folder: Path, claimed: str) -> None:
    claim(folder, claimed)
    made = loaded(folder)
    assert made.dtype == torch.float32
    own = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(made.model.get_parameter("model.embed_tokens.weight"), own)


def test_16_bit_weights_are_not_widened_to_what_the_config_says(folder: Path) -> None:
    convert(folder, torch.bfloat16)
    claim(folder, "float32")
    assert loaded(folder).dtype == FAST_HALF


def test_stored_dtype_is_that_of_most_weights(folder: Path) -> None:
    convert(folder, torch.bfloat16, but="norm")
    assert stored_dtype(folder) == torch.bfloat16
    convert(folder, torch.float16)
    assert stored_dtype(folder) == torch.float16


def test_stored_dtype_of_unreadable_weights_is_unknown(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half")
    assert stored_dtype(folder) is None


def test_pick_dtype_auto_keeps_float32_checkpoints() -> None:
    assert pick_dtype("auto", CPU, torch.float32) == torch.float32
    assert pick_dtype("auto", CPU, torch.bfloat16) == FAST_HALF
    assert pick_dtype("float16", CPU, torch.bfloat16) == torch.float16


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weight_beyond_float16_is_named(folder: Path, name: str) -> None:
    weight = load_file(folder / "model.safetensors")[name]
    weight.view(-1)[0] = LARGE
    rewrite(folder, {name: weight})
    with pytest.raises(ModelUnsupported, match="float16 holds") as caught:
        build_engine(WorkerSpec(str(folder), "tiny", dtype="float16"), lambda _: None)
    assert "LLM_DTYPE=bfloat16" in (caught.value.hint or "")


def test_activation_beyond_float16_is_named(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    rewrite(folder, {"model.layers.1.mlp.up_proj.weight": weight + 50_000})
    with pytest.raises(ModelUnsupported, match="float16 holds"):
        build_engine(WorkerSpec(str(folder), "tiny", dtype="float16"), lambda _: None)


def test_weight_beyond_float16_is_kept_under_float32(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    weight[0, 0] = LARGE
    rewrite(folder, {"model.layers.1.mlp.down_proj.weight": weight})
    convert(folder, torch.bfloat16)
    ready = build_engine(WorkerSpec(str(folder), "tiny", dtype="float32"), lambda _: None)
    assert ready.info.dtype == "float32"


def test_weight_that_is_no_number_is_named(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["model.norm.weight"]
    rewrite(folder, {"model.norm.weight": weight * float("nan")})
    with pytest.raises(ModelCorrupt, match="not finite"):
        build_engine(WorkerSpec(str(folder), "tiny"), lambda _: None)
