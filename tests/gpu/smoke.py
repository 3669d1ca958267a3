"""Loads small models in every form on the device, and compares greedy replies with those of `generate`."""

import argparse
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gguf.constants import GGMLQuantizationType
from transformers import AutoModelForCausalLM

from app.core.catalogue import BUILTIN_PATH
from app.core.literals import Device
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit, WorkerSpec
from tests.engine.gguf.files import tiny_model, write
from tests.engine.tiny import configs, decode, make_tokenizer
from tests.gpu.engines import built, graph_shapes, greedy, record
from tests.gpu.figures import Figures

_PROMPT = "the cat sat on the mat, and then the cat"
_TOKENS = 40


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device: Device = parser.parse_args().device
    figures, failed = Figures(), 0
    with TemporaryDirectory() as folder:
        for name, check in _checks(Path(folder), device).items():
            try:
                figures.add(name, check())
            except Exception as error:  # the root of this check: the others go on
                traceback.print_exc()
                figures.add(name, f"FAILED: {type(error).__name__}: {error}"[:500])
                failed += 1
    return failed


def _checks(folder: Path, device: Device) -> dict[str, Callable[[], str]]:
    spec = partial(WorkerSpec, model_name="tiny", device=device, kv_cache_bytes=200_000_000)
    builtin = partial(spec, str(BUILTIN_PATH))
    tiny = partial(_equals_generate, folder / "llama", device)
    return {
        "llama, float32, greedy": tiny,
        "built-in, auto": partial(_answers, builtin()),
        "built-in, float16": partial(_answers, builtin(dtype="float16")),
        "built-in, int8": partial(_answers, builtin(quantization="int8")),
        "built-in, int4": partial(_answers, builtin(quantization="int4")),
        "GGUF, Q4_0": partial(_gguf, folder / "tiny.gguf", spec, GGMLQuantizationType.Q4_0),
        "built-in, sampled": partial(_answers, builtin(), 0.8),
    }


def _equals_generate(folder: Path, device: Device) -> str:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(configs(len(tokenizer))["llama"], dtype=torch.float32)  # type: ignore[no-untyped-call]
    reference.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reference.to(device).train(False)
    ids = tokenizer(_PROMPT, return_tensors="pt").input_ids.to(device)
    output = reference.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_TOKENS, pad_token_id=0
    )
    expected = decode(tokenizer, output[0, ids.shape[1] :].tolist(), skips_special=True)
    spec = WorkerSpec(str(folder), "tiny", device=device, dtype="float32", kv_cache_bytes=50_000_000)
    with built(spec) as ready:
        text = record(ready, [greedy("a", _PROMPT, _TOKENS)]).texts["a"]
        shapes = graph_shapes(ready)
    if text != expected.removesuffix("\ufffd"):
        raise AssertionError(f"{text!r} instead of {expected!r}")
    if device == "cuda" and not shapes:
        raise AssertionError("no CUDA graph was captured")
    return f"equal, graphs: {shapes}"


def _answers(spec: WorkerSpec, temperature: float = 0) -> str:
    sampling = SamplingParams(max_tokens=24, temperature=temperature, top_p=0.9, seed=1)
    messages = (ChatMessage("user", "What is the capital of France?"),)
    with built(spec) as ready:
        text = record(ready, [Submit("a", sampling, messages)]).texts["a"]
        return f"{ready.info.weights}, graphs {graph_shapes(ready)}: {text!r}"


def _gguf(path: Path, spec: Callable[[str], WorkerSpec], kind: GGMLQuantizationType) -> str:
    write(path, tiny_model("llama"), "llama", kind)
    with built(spec(str(path))) as ready:
        text = record(ready, [greedy("a", _PROMPT, 8)]).texts["a"]
        return f"{ready.info.weights}: {text!r}"


if __name__ == "__main__":
    sys.exit(main())
