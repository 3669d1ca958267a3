"""Tiny models under the real names of the Hub's repositories, as files."""

import io
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.engine.tiny import configs, make_tokenizer

LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
DIALOGPT = "microsoft/DialoGPT-medium"
QWEN = "Qwen/Qwen3-0.6B"
FALCON = "tiiuae/falcon-rw-1b"


def tiny_repository(
    architecture: str, *, is_pickle: bool = False, has_template: bool = True
) -> dict[str, bytes]:
    """The files of a model with random weights; with `is_pickle`, the weights are in the old format."""
    tokenizer = make_tokenizer()
    if not has_template:
        tokenizer.chat_template = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs(len(tokenizer))[architecture])  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if is_pickle:
        del files["model.safetensors"]
        packed = io.BytesIO()
        torch.save(model.state_dict(), packed)
        files["pytorch_model.bin"] = packed.getvalue()
    return files
