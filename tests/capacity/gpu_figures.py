"""Makes server costs of the figures that `python -m tests.gpu run` has measured on a graphics card."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests.benchmarks import shapes
from tests.capacity.server_costs import HostCosts, ServerCosts
from tests.capacity.step_times import Curve, StepTimes
from tests.gpu.speed import COUNTS, PREFILLS, PROMPT_TOKENS, REPLY_TOKENS

_STEP_TOKENS, _UNNOTICED_S = 2048, 0.02  # of an engine on CUDA, see app/engine/decoders.py
_ITEM_BYTES = 2  # of a number in bfloat16
_WINDOW = 8192  # tokens
_CORES = 16  # of the card's host
_PROFILED_TOKENS = PROMPT_TOKENS + 40  # the same during tests.gpu.profile
_MEAN_TOKENS = PROMPT_TOKENS + REPLY_TOKENS // 2  # that a sequence attends to during the measurement


def from_gpu_run(results: Path, model: str, card: str, host: HostCosts) -> ServerCosts:
    """Returns the costs of a server with this model on the card.

    `results` is the run's results.json, with the steps `model` and `profile`. It has no figures of HTTP, so
    `host` comes from a server that was measured elsewhere. Three times are bounds from above: the whole
    growth of the kernels with the number of sequences counts as their attention, a prompt's preparation is
    part of its prefill, and prefill costs the same after a long history.
    """
    run = json.loads(results.read_text())
    figures, profiled = run[model]["figures"], run["profile"]["figures"]
    config = shapes.FULL[model].config
    window = min(_WINDOW, int(config.max_position_embeddings))
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    head = config.hidden_size // config.num_attention_heads
    return ServerCosts(
        model=model,
        source=f"python -m tests.gpu run, {card}",
        step=_step_times(figures, profiled, window),
        bytes_per_token=2 * config.num_hidden_layers * heads * head * _ITEM_BYTES,
        context_length=window,
        weights_bytes=_ITEM_BYTES * _parameters(config),
        cores=_CORES,
        threads=1,
        step_tokens=_STEP_TOKENS,
        unnoticed_step_s=_UNNOTICED_S,
        first_overhead_tokens=4,
        turn_overhead_tokens=8,
        host=replace(host, prepare_s=0.0, prepare_token_s=0.0, client_request_s=0.0, client_token_s=0.0),
    )


def _step_times(figures: dict[str, float], profiled: dict[str, float], window: int) -> StepTimes:
    steps = {count: count / figures[f"{count} sequences, decoding, tok/s"] for count in COUNTS}
    few, most = min(COUNTS), max(COUNTS)
    length = min(PREFILLS[-1], window - REPLY_TOKENS - 32)
    far_s = 1 / figures[f"1 sequence after {length} tokens, decoding, tok/s"]
    longest_token_s = max(0.0, far_s - steps[few]) / (length + REPLY_TOKENS // 2 - _MEAN_TOKENS)
    few_s, most_s = (profiled[f"{count} sequences: kernels of a step, ms"] / 1000 for count in (few, most))
    token_s = max(0.0, most_s - few_s) / ((most - few) * _PROFILED_TOKENS)
    attended = partial(_attended_s, token_s, longest_token_s)
    return StepTimes(
        Curve(
            tuple(float(count) for count in COUNTS),
            tuple(seconds - attended(count) for count, seconds in steps.items()),
        ),
        prefill=_prefill_curve(figures, window),
        decode_token_s=token_s,
        longest_token_s=longest_token_s,
    )


def _parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())  # type: ignore[no-untyped-call]


def _attended_s(token_s: float, longest_token_s: float, count: int) -> float:
    return max(token_s * count, longest_token_s) * _MEAN_TOKENS


def _prefill_curve(figures: dict[str, float], window: int) -> Curve:
    """The longer prompt took several passes, each of at most _STEP_TOKENS rows."""
    short, long = (min(tokens, window - 32) for tokens in PREFILLS)
    passes = -(-long // _STEP_TOKENS)
    seconds = (figures[f"prefill of {tokens} tokens, ms"] / 1000 for tokens in (short, long))
    short_s, long_s = seconds
    return Curve((float(short), long / passes), (short_s, long_s / passes))
