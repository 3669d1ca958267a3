"""Loads and serves a tiny model of one architecture, and compares its replies with those of transformers."""

import resource
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from app.core.errors import ModelUnavailable
from app.engine.core import EngineCore, EngineLimits
from app.engine.decoders import decoder_for, sequence_bytes
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import LoadedModel
from app.engine.loading.serving_path import CheckedModel, load_checked
from app.engine.own_cache.check import OwnPath
from app.engine.own_cache.runner import CachePlace
from tests.engine.architectures.tiny_configs import tiny_config
from tests.engine.tiny import (
    InlineExecutor,
    decode,
    greedy,
    make_tokenizer,
    new_model,
    run,
    shared_grammar_sandbox,
    shared_sandbox,
)

_LONG = "the cat sat on the mat, 日本語 and é 👍 too. " * 5
_SHORT = "on the mat"
_WINDOW = 256  # tokens
_CPU_S = 120
_MEMORY = 6 << 30  # bytes
_LEAST_SPREAD = 0.1  # standard deviation of weights; with less, every reply repeats one token
_END = 1


def outcome(architecture: str, folder: Path) -> str:
    """Returns `packed`, `own cache`, `no cache`, `refused: ` with the reason, or what went wrong.

    It limits the time and memory of its process: call it in one of its own.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    try:
        save_tiny(architecture, tokenizer, folder)
    except Exception as error:  # any code of any architecture runs here
        return f"no tiny model: {_first_line(error)}"
    spec = WorkerSpec(str(folder), architecture, device="cpu", dtype="float32")
    try:
        served = load_checked(spec, lambda *stage: None)
    except ModelUnavailable as error:
        return f"refused: {error.message}"
    replies = _replies(served)
    wrong = _wrong(replies, folder, tokenizer)
    return f"wrong replies: {wrong}" if wrong else _kind(served)


def _kind(served: CheckedModel) -> str:
    if not isinstance(served.path, OwnPath):
        return "packed"
    return "no cache" if served.path.options.place is CachePlace.NOWHERE else "own cache"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def save_tiny(architecture: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tiny model of the architecture, whose weights vary, with the tokenizer."""
    config = tiny_config(architecture, len(tokenizer))
    model = new_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            _vary(weight)
    model.save_pretrained(folder)
    if model.config.model_type != config.model_type:  # it has only the text part of it
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _vary(weight: torch.Tensor) -> None:
    if not weight.is_floating_point() or weight.numel() < 2:
        return
    if (weight == weight.flatten()[0]).all():
        weight.add_(_LEAST_SPREAD * torch.randn_like(weight))
    elif weight.dim() >= 2 and weight.std() < _LEAST_SPREAD:
        weight.mul_(2 * _LEAST_SPREAD / weight.std().clamp_min(1e-9))


def _replies(served: CheckedModel) -> dict[tuple[str, int], str]:
    """Returns the reply to each prompt and its length: beside others, after them, and with their caches."""
    engine = _engine(served.loaded, served)
    prompts = [_LONG, _SHORT, f"{_SHORT} the cat"]
    first = run(engine, *(greedy(prompt, prompt) for prompt in prompts)).texts
    continued = [f"{_LONG}{first[_LONG]} and the cat", f"{_LONG}the mat too"]
    second = run(engine, *(greedy(prompt, prompt, 12) for prompt in continued)).texts
    return {(prompt, 24): first[prompt] for prompt in prompts} | {
        (prompt, 12): second[prompt] for prompt in continued
    }


def _engine(loaded: LoadedModel, served: CheckedModel) -> EngineCore:
    size, window = sequence_bytes(served), min(_WINDOW, loaded.context_length)
    limits = EngineLimits(
        context_length=window,
        kv_cache_bytes=16 * size.of(window),
        max_active_requests=8,
        step_tokens=24,
    )
    return EngineCore(
        loaded,
        decoder_for(served, limits, size),
        limits,
        sandbox=shared_sandbox(),
        grammar_sandbox=shared_grammar_sandbox(),
        admission_executor=InlineExecutor(),
    )


def _wrong(replies: dict[tuple[str, int], str], folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """Returns how a reply differs from those of transformers, with its cache and without; empty if none."""
    reference: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    reference.train(False)
    for (prompt, length), reply in replies.items():
        ids: list[int] = tokenizer(prompt).input_ids
        uncached = _text(_uncached(reference, ids, length), tokenizer)
        if reply != uncached and reply != (cached := _text(_generated(reference, ids, length), tokenizer)):
            return f"{reply!r}, not {uncached!r} or {cached!r}"
    return ""


def _text(reply: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    text = decode(tokenizer, reply, skips_special=True)
    return text if reply[-1] == _END else text.removesuffix("\ufffd")


def _uncached(model: PreTrainedModel, prompt: list[int], length: int) -> list[int]:
    reply: list[int] = []
    with torch.inference_mode():
        while len(reply) < length and reply[-1:] != [_END]:
            logits = model(input_ids=torch.tensor([prompt + reply]), use_cache=False).logits
            reply.append(int(logits[0, -1].argmax()))
    return reply


def _generated(model: PreTrainedModel, prompt: list[int], length: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(  # type: ignore[operator]  # a method, which torch hides
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=_END,
        pad_token_id=0,
    )
    reply: list[int] = output[0, len(prompt) :].tolist()
    return reply
