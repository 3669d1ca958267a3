"""LoRA adapters are merged as peft merges them, or refused with a reason."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelRefused, ModelUnavailable, ModelUnsupported
from app.core.model_folder import is_complete, weights_among
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from app.engine.startup import build_engine
from tests.engine.tiny import configs, decode, greedy, new_model, run

# peft itself uses names that transformers will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LAYERS = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {  # arguments of LoraConfig
    "plain": {"target_modules": LAYERS},
    "all layers": {"target_modules": "all-linear", "use_rslora": True},
    "ranks by layer": {
        "target_modules": LAYERS,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 9},
    },
    "modules by a pattern": {"target_modules": r"(?:.*?layers\.[02].*?(?:q_proj|down_proj))|.*o_proj"},
    "all but a pattern": {"target_modules": "all-linear", "exclude_modules": r".*layers\.1\..*|.*k_proj"},
    "ranks by a pattern": {"target_modules": LAYERS, "rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": 2}},
    "some layers": {"target_modules": LAYERS, "layers_to_transform": [1]},
    "decomposed": {"target_modules": LAYERS, "use_dora": True},
    "whole output layer": {"target_modules": LAYERS, "modules_to_save": ["lm_head"]},
}


@pytest.fixture
def base(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny Llama on disk."""
    folder = tmp_path / "base"
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own_model(base: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(base)
    assert isinstance(model, PreTrainedModel)
    return model


def make_adapter(base: Path, **options: Any) -> Path:  # of LoraConfig
    """Returns the folder of an adapter with random weights."""
    folder = base.with_name("adapter")
    torch.manual_seed(1)
    adapted = get_peft_model(own_model(base), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
    for name, weight in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder))
    return folder


def spec(base: Path, adapter: Path) -> WorkerSpec:
    return WorkerSpec(str(base), "tiny", adapter_path=str(adapter))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_is_merged_as_peft_merges_it(
    base: Path, tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    adapter = make_adapter(base, **KINDS[kind])
    merged: Any = PeftModel.from_pretrained(own_model(base), str(adapter)).merge_and_unload()
    ids = tokenizer("the cat sat", return_tensors="pt").input_ids
    expected = merged.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :].tolist()
    own: Any = own_model(base)
    assert expected != own.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :].tolist()
    ready = build_engine(spec(base, adapter), lambda _: None)
    text = run(ready.engine, greedy("a", "the cat sat", 24)).texts["a"]
    assert text.rstrip("\ufffd") == decode(tokenizer, expected, skips_special=True).rstrip("\ufffd")


def test_adapter_is_merged_into_mapped_16_bit_weights(base: Path) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    own_model(base).bfloat16().save_pretrained(base)
    merged: Any = PeftModel.from_pretrained(own_model(base), str(adapter)).merge_and_unload()
    loaded = load(spec(base, adapter), lambda *_: None).model
    for name, weight in merged.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name


def test_adapter_brings_its_own_tokenizer(base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    assert load(spec(base, adapter), lambda *_: None).tokenizer.chat_template == tokenizer.chat_template
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").write_text("of the adapter")
    template: object = load(spec(base, adapter), lambda *_: None).tokenizer.chat_template
    assert template == "of the adapter"


def test_folder_with_only_an_adapter_says_which_base_it_needs(base: Path) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    edit(adapter, base_model_name_or_path="meta-llama/Llama-3.2-1B")
    assert is_complete(adapter)
    with pytest.raises(ModelUnsupported, match="needs meta-llama/Llama-3.2-1B") as caught:
        load(WorkerSpec(str(adapter), "tiny"), lambda *_: None)
    assert "BASE+ADAPTER" in (caught.value.hint or "")


def store_large_rank(adapter: Path) -> None:
    """Gives the rank to all layers, though only a small weight that belongs to none has it."""
    path, rank = adapter / "adapter_model.safetensors", 200_000
    elsewhere = {"base_model.model.elsewhere.lora_A.weight": torch.zeros(rank, 1)}
    save_file(load_file(path) | elsewhere, path)
    edit(adapter, r=rank)


def widen(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name: torch.cat((value, value), -1) for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda adapter: edit(adapter, r=10**9), ModelCorrupt, "r does not fit"),
        (lambda adapter: edit(adapter, rank_pattern={"q_proj": 10**9}), ModelCorrupt, "r does not fit"),
        (store_large_rank, ModelCorrupt, "more weights than are stored"),
        (lambda adapter: edit(adapter, r=2), ModelCorrupt, "does not fit the model"),
        (lambda adapter: edit(adapter, target_modules=["q_proj"]), ModelCorrupt, "2 are unknown|unknown"),
        (lambda adapter: edit(adapter, target_modules=["elsewhere"]), ModelCorrupt, "does not fit"),
        (lambda adapter: edit(adapter, peft_type="IA3"), ModelUnsupported, "peft_type"),
        (lambda adapter: edit(adapter, megatron_config={"a": 1}), ModelUnsupported, "megatron_config"),
        (lambda adapter: edit(adapter, init_lora_weights="pissa"), ModelUnsupported, "base model"),
        (lambda adapter: edit(adapter, modules_to_save=5), ModelCorrupt, "modules_to_save holds no patterns"),
        (lambda adapter: edit(adapter, alpha_pattern=True), ModelCorrupt, "alpha_pattern holds no patterns"),
        (lambda adapter: edit(adapter, rank_pattern=["q_proj"]), ModelCorrupt, "does not fit the model"),
        (widen, ModelCorrupt, "does not fit the model"),
        (lambda adapter: (adapter / "adapter_config.json").write_text("["), ModelCorrupt, "cannot be read"),
        (
            lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"half"),
            ModelCorrupt,
            "adapter_model.safetensors cannot be read",
        ),
        (lambda adapter: (adapter / "x").symlink_to("/etc/passwd"), ModelRefused, "leaves"),
    ],
)
def test_adapter_that_does_not_fit_is_refused(
    base: Path, damage: Callable[[Path], object], error: type[ModelUnavailable], says: str
) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    damage(adapter)
    with pytest.raises(error, match=says):
        load(spec(base, adapter), lambda *_: None)


SLOW = r"((\w|\.)+)+!"  # takes for ever to find out that a name does not match


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_slow_pattern_of_modules_is_never_matched(base: Path, field: str) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    merged: Any = PeftModel.from_pretrained(own_model(base), str(adapter)).merge_and_unload()
    edit(adapter, **{field: SLOW})
    loaded = load(spec(base, adapter), lambda *_: None).model
    for name, weight in merged.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": {SLOW: 2}},
        {"alpha_pattern": {SLOW: 2}},
        {"alpha_pattern": {".*.*.*.*.*.*!": 2}},
        {"alpha_pattern": {"q" * 201: 2}},
        {"layers_to_transform": [1], "layers_pattern": SLOW},
        {"layers_to_transform": [1], "layers_pattern": ["layers", 5]},
        {"modules_to_save": [SLOW]},
    ],
)
def test_slow_pattern_of_other_fields_is_refused(base: Path, changes: dict[str, Any]) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    edit(adapter, **changes)
    with pytest.raises(ModelUnsupported, match="too complicated"):
        load(spec(base, adapter), lambda *_: None)


def test_adapter_of_a_gguf_file_is_refused(base: Path) -> None:
    with pytest.raises(ModelUnsupported, match="GGUF"):
        load(spec(base / "model.gguf", base), lambda *_: None)


def test_repository_of_an_adapter_has_its_weights() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert weights_among(names) == ["adapter_model.safetensors"]


WITHOUT_PEFT = """
import sys
sys.modules["peft"] = None  # as if it were not installed
from app.core.errors import ModelUnsupported
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
try:
    load(WorkerSpec(sys.argv[1], "tiny", adapter_path=sys.argv[2]), lambda *_: None)
except ModelUnsupported as error:
    print(error.message, error.hint, sep="\\n")
"""


def test_missing_package_is_asked_for_by_name(base: Path) -> None:
    adapter = make_adapter(base, target_modules=LAYERS)
    command = [sys.executable, "-c", WITHOUT_PEFT, str(base), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [
        "merging an adapter needs the Python package peft",
        "Install it: pip install peft",
    ]
