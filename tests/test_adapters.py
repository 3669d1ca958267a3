"""A server merges adapters that the models file or a model's name names, and replies as peft's merge does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.engine.tiny import configs, decode, make_tokenizer, new_model
from tests.server import RunningServer, running_server

# peft itself uses names that transformers will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

PROMPT, MAX_TOKENS = "the cat sat", 24
MODELS = '[models.base]\nsource = "./base"\n[models.tuned]\nsource = "./base"\nadapter = "./lora"\n'
SETTINGS = {
    "LLM_MODEL_NAME": "base",
    "LLM_MODELS_FILE": "models.toml",
    "LLM_ALLOW_ANY_MODEL": "true",
    "LLM_DTYPE": "float32",
    "LLM_THREADS": "1",
}


def stored(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(model, PreTrainedModel)
    return model


def save_adapter(base: Path, folder: Path) -> None:
    """Write an adapter of the base model with random weights."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(stored(base), config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder))


def expected(model: Any, tokenizer: PreTrainedTokenizerFast) -> str:  # peft and transformers hide `generate`
    """Returns the greedy reply of transformers."""
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    reply = model.generate(ids, do_sample=False, max_new_tokens=MAX_TOKENS)[0, ids.shape[1] :].tolist()
    return decode(tokenizer, reply, skips_special=True).rstrip("\ufffd")


def reply_of(server: RunningServer, name: str) -> str:
    body = {"prompt": PROMPT, "model_name": name, "max_tokens": MAX_TOKENS, "temperature": 0}
    texts: list[str] = server.post("/api/v1/generate", **body)["generated_text"]
    return texts[0].rstrip("\ufffd")


def test_server_replies_with_adapters_of_the_models_file_and_of_a_name(
    tmp_path: Path, shared_fork_server: Path
) -> None:
    base, lora, tokenizer = tmp_path / "base", tmp_path / "lora", make_tokenizer()
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(base)
    tokenizer.save_pretrained(base)
    save_adapter(base, lora)
    (tmp_path / "models.toml").write_text(MODELS)
    own, merged = stored(base), PeftModel.from_pretrained(stored(base), str(lora)).merge_and_unload()
    plain, tuned = expected(own, tokenizer), expected(merged, tokenizer)
    assert plain != tuned
    with running_server(tmp_path, **SETTINGS, LLM_FORK_SERVER=str(shared_fork_server)) as server:
        server.wait_until_ready()
        for name, text in {
            "base": plain,
            "tuned": tuned,
            "base+./lora": tuned,
            f"{base}+{lora}": tuned,
        }.items():
            assert reply_of(server, name) == text, name
