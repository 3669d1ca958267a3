"""Generates model folders with random weights, shard by shard, and computes their sizes.

A reply must not end before `max_tokens`. Therefore the embedding, which is also the output layer, has small
rows for all tokens except words: a greedy reply contains no end token, stop string or partial character.
A reply must not repeat itself either, or speculation would look better than it is. With the standard
deviations below, the last word outweighs the average of earlier words, and the layers' output outweighs it.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from app.core.model_folder import is_complete
from tests.benchmarks.shapes import Shape
from tests.benchmarks.vocabulary import FIRST_WORD, make_tokenizer

_SHARD_BYTES = 500_000_000
_TABLE_SPREAD = 0.1
_ATTENTION_SHARE = 0.2  # scale of the attention outputs, relative to the other layers
_ATTENTION_OUTPUTS = ("attn.c_proj.weight", "attn.o_proj.weight")
_EMBEDDINGS = ("wte.weight", "embed_tokens.weight")
_RARE = 0.05  # scale of the rows of tokens that are not words
_LOOKED_UP = ("wpe.weight",)  # tables from which a token reads one row


def ensure(shape: Shape, cache: Path) -> Path:
    """The folder of the model below `cache`, where a server looks for it. Generates it if it is missing."""
    folder = cache / shape.source.location
    if not is_complete(folder):
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(shape, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def bytes_per_token(folder: Path, item_bytes: float) -> int:
    """Bytes of weights that one token reads, at `item_bytes` each: all weights except lookup tables."""
    sizes = dict(_sizes(folder))
    looked_up = _LOOKED_UP if "lm_head.weight" not in sizes else (*_LOOKED_UP, *_EMBEDDINGS)
    return int(sum(size for name, size in sizes.items() if not name.endswith(looked_up)) * item_bytes)


def weights_count(folder: Path) -> int:
    return sum(size for _, size in _sizes(folder))


def weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is not a mapping)
                yield name, math.prod(tensors.get_slice(name).get_shape())


def _write(shape: Shape, folder: Path) -> None:
    make_tokenizer(shape.vocabulary).save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            shape.config, dtype=torch.bfloat16
        )
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {name: tensor.shape for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    shards = list(_shards(tensors))
    random = torch.Generator().manual_seed(0)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: _weight(name, tensors[name], random) for name in names}
        save_file(weights, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _shards(tensors: dict[str, torch.Size]) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in tensors.items():
        if names and held + 2 * shape.numel() > _SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += 2 * shape.numel()
    yield names


def _weight(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    if len(shape) == 1:
        value = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, value, dtype=torch.bfloat16)
    is_table = name.endswith((*_EMBEDDINGS, *_LOOKED_UP))
    inputs = 0 if ".h." in name else 1  # GPT-2's layers are transposed
    spread = _TABLE_SPREAD if is_table else 1 / math.sqrt(shape[inputs])
    weight = torch.empty(shape).normal_(0, spread, generator=random)
    if name.endswith(_EMBEDDINGS):
        weight[:FIRST_WORD] *= _RARE
    elif name.endswith(_ATTENTION_OUTPUTS):
        weight *= _ATTENTION_SHARE
    elif not is_table:
        weight -= weight.mean(
            inputs, keepdim=True
        )  # GELU's outputs have a mean that does not depend on the word
    return weight.bfloat16()
