"""Hybrids and mixtures of experts read from GGUF files compute what transformers' models compute."""

from pathlib import Path

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.engine.gguf.config import config_of
from app.engine.gguf.file import GGUFFile, read
from app.engine.ipc.messages import WorkerSpec
from app.engine.layers.blocks import matrices_in_blocks
from app.engine.layers.mixtures.experts import QuantisedExperts
from app.engine.layers.schemes import relative_error
from app.engine.loading.self_check import PackedPath
from app.engine.loading.serving_path import load_checked
from tests.engine.gguf.mixed_files import write
from tests.engine.gguf.mixed_models import CONFIGS, tiny_model
from tests.engine.gguf.test_model import IDS, loaded, logits

_PACKED = (
    "gpt2",
    "gemma4",
    "qwen2moe",
    "qwen3moe",
    "olmoe",
    "gpt-oss",
    "granitemoe",
)  # the others have own caches


@pytest.mark.parametrize("case", CONFIGS)
def test_model_of_a_file_computes_the_same(tmp_path: Path, case: str) -> None:
    own = tiny_model(case)
    read_back = loaded(write(tmp_path / "tiny.gguf", own, case))
    assert relative_error(logits(read_back.model, IDS.repeat(1, 2)), logits(own, IDS.repeat(1, 2))) < 1e-5


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0])
@pytest.mark.parametrize("case", CONFIGS)
def test_blocks_keep_the_values_of_the_file(tmp_path: Path, case: str, kind: Kind) -> None:
    own = tiny_model(case)
    rounded = loaded(write(tmp_path / "rounded.gguf", own, case, kind, is_rounded=True))
    blocks = loaded(write(tmp_path / "blocks.gguf", own, case, kind))
    assert any(matrices_in_blocks(blocks.model))
    assert relative_error(logits(blocks.model), logits(rounded.model)) < 1e-5


@pytest.mark.parametrize("case", CONFIGS)
def test_model_is_served_with_the_bits_of_its_file(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model(case), case, Kind.Q4_0)
    served = load_checked(WorkerSpec(str(path), "tiny", dtype="float32"), lambda *stage: None)
    assert isinstance(served.path, PackedPath) == (case.split()[0] in _PACKED)
    assert served.path.weights == "int4 (Q4_0)"
    assert not any(matrices_in_blocks(served.loaded.model))


def test_experts_of_gpt_oss_keep_their_4_bit_floats(tmp_path: Path) -> None:
    own = tiny_model("gpt-oss")
    rounded = loaded(write(tmp_path / "rounded.gguf", own, "gpt-oss", Kind.MXFP4, is_rounded=True))
    path = write(tmp_path / "blocks.gguf", own, "gpt-oss", Kind.MXFP4)
    served = load_checked(WorkerSpec(str(path), "tiny", dtype="float32"), lambda *stage: None)
    assert served.path.weights == "int8 (MXFP4)"
    experts = [module for module in served.loaded.model.modules() if isinstance(module, QuantisedExperts)]
    theirs = [module for name, module in rounded.model.named_modules() if name.endswith("mlp.experts")]
    rows = torch.randn(9, own.config.hidden_size)
    chosen, weights = torch.randint(6, (9, 2)), torch.rand(9, 2)
    with torch.inference_mode():
        for found, expected in zip(experts, theirs, strict=True):
            assert relative_error(found(rows, chosen, weights), expected(rows, chosen, weights)) < 1e-3


@pytest.mark.parametrize(
    ("case", "facts", "reason"),
    [
        ("qwen3moe", {"attention.causal": False}, "reads a whole text at once"),
        ("qwen3moe", {"expert_gating_func": 2}, "another gating function"),
        ("qwen3moe", {"expert_weights_scale": 2.5}, "scale the experts' weights"),
        ("olmoe", {"attention.clamp_kqv": 8.0}, "clamp"),
        ("lfm2", {"attention.head_count_kv": [2, 1, 0]}, "different numbers of heads"),
        ("granitehybrid", {"rope.scaling.finetuned": True}, "rotary positions"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    tmp_path: Path, case: str, facts: dict[str, object], reason: str
) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model(case), case, facts=facts)
    with pytest.raises(ModelUnsupported, match=reason):
        config_of(read(path))


def test_experts_of_an_architecture_without_any_are_refused_by_name() -> None:
    file = GGUFFile({"general.architecture": "llama", "llama.expert_count": 8}, {})
    with pytest.raises(ModelUnsupported, match="llama with a mixture of experts"):
        config_of(file)


@pytest.mark.parametrize(
    ("case", "facts"),
    [
        ("qwen3moe", {"expert_used_count": 7}),
        ("qwen3moe", {"expert_count": 2**31}),
        ("lfm2", {"attention.head_count_kv": [0, 2]}),
        ("lfm2", {"attention.head_count_kv": [0.0, 2.5, 0.0]}),
        ("qwen35", {"ssm.group_count": 4}),
        ("granitehybrid", {"ssm.inner_size": 96}),
    ],
)
def test_values_that_make_no_sense_are_corrupt(tmp_path: Path, case: str, facts: dict[str, object]) -> None:
    with pytest.raises(ModelCorrupt):
        config_of(read(write(tmp_path / "tiny.gguf", tiny_model(case), case, facts=facts)))


def test_layers_that_draft_tokens_are_left_out(tmp_path: Path) -> None:
    own = tiny_model("qwen35")
    facts = {"block_count": 4, "nextn_predict_layers": 1}
    extra = {"blk.3.nextn.eh_proj.weight": (64, 128), "blk.3.attn_q.weight": (256, 64)}
    read_back = loaded(write(tmp_path / "tiny.gguf", own, "qwen35", facts=facts, extra=extra))
    assert relative_error(logits(read_back.model), logits(own)) < 1e-5
