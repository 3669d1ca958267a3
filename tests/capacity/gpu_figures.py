"""Makes server costs of the figures that `python -m tests.gpu run` has measured on a graphics card."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import simpy
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests.benchmarks import shapes
from tests.capacity.host import Wait
from tests.capacity.records import TurnRecord
from tests.capacity.replica import REPLY_ID, Replica, ServerLimits
from tests.capacity.server_costs import HostCosts, ServerCosts
from tests.capacity.step_times import Curve, StepTimes
from tests.gpu.speed import COUNTS, PREFILLS, PROMPT_TOKENS, REPLY_TOKENS

_STEP_TOKENS, _UNNOTICED_S = 2048, 0.02  # of an engine on CUDA, see app/engine/decoders.py
_ITEM_BYTES = 2  # of a number in bfloat16
_WINDOW = 8192  # tokens
_ROUND_S = 60.0  # the second round begins when the first one has certainly ended
_CORES = 16  # of the card's host
_PROFILED_TOKENS = PROMPT_TOKENS + 40  # the same during tests.gpu.profile
_MEAN_TOKENS = PROMPT_TOKENS + REPLY_TOKENS // 2  # that a sequence attends to during the measurement


def from_gpu_run(results: Path, model: str, card: str, host: HostCosts) -> ServerCosts:
    """Returns the costs of a server with this model on the card.

    `results` is the run's results.json, with the steps `model` and `profile`. It has no figures of HTTP, so
    `host` comes from a server that was measured elsewhere. Attention over histories is a bound from above:
    the whole growth of the kernels with the number of sequences. Prefill costs the same after any history.
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
        step=_step_times(figures, profiled, window, host),
        bytes_per_token=2 * config.num_hidden_layers * heads * head * _ITEM_BYTES,
        context_length=window,
        weights_bytes=_ITEM_BYTES * _parameters(config),
        cores=_CORES,
        threads=1,
        step_tokens=_STEP_TOKENS,
        unnoticed_step_s=_UNNOTICED_S,
        first_overhead_tokens=4,
        turn_overhead_tokens=8,
        host=replace(host, client_request_s=0.0, client_token_s=0.0),
    )


@dataclass(frozen=True, slots=True)
class CheckedRate:
    """Tokens per second of requests that are sent together, prefill included."""

    sequences: int
    predicted: float
    measured: float


def check_rates(results: Path, costs: ServerCosts) -> list[CheckedRate]:
    """Compares the costs with figures of the same run that they were not made of."""
    figures = json.loads(results.read_text())[costs.model]["figures"]
    host = replace(costs.host, request_s=0.0, finish_s=0.0, token_s=0.0, loop_s=0.0)
    alone = replace(costs, host=host)  # the run measured the engine without HTTP
    return [
        CheckedRate(count, _rate(alone, count), figures[f"{count} sequences, with prefill, tok/s"])
        for count in COUNTS
    ]


def _rate(costs: ServerCosts, count: int) -> float:
    """Returns the rate of the second of two rounds, as it was measured: the first one teaches the budget."""
    env, records = simpy.Environment(), list[TurnRecord]()
    replica = Replica(env, costs, ServerLimits(_WINDOW * max(COUNTS) * costs.bytes_per_token, max(COUNTS)))

    def ask(number: int, at_s: float) -> Wait:
        yield env.timeout(at_s)
        records.append(record := TurnRecord(number, at_s))
        yield from replica.serve(record, [REPLY_ID + 1 + number] * PROMPT_TOKENS, REPLY_TOKENS)

    asked = [env.process(ask(number, _ROUND_S if number < count else 0.0)) for number in range(2 * count)]
    env.run(simpy.AllOf(env, asked))
    ends = [record.ended_s for record in records if record.user < count and record.ended_s is not None]
    return count * REPLY_TOKENS / (max(ends) - _ROUND_S)


def _step_times(
    figures: dict[str, float], profiled: dict[str, float], window: int, host: HostCosts
) -> StepTimes:
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
        prefill=_prefill_curve(figures, window, host),
        decode_token_s=token_s,
        longest_token_s=longest_token_s,
    )


def _parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())  # type: ignore[no-untyped-call]


def _attended_s(token_s: float, longest_token_s: float, count: int) -> float:
    return max(token_s * count, longest_token_s) * _MEAN_TOKENS


def _prefill_curve(figures: dict[str, float], window: int, host: HostCosts) -> Curve:
    """Passes over three prompts, without their preparation. The longest took several, each of a full step."""
    _, medium, long = lengths = (PROMPT_TOKENS, *(min(tokens, window - 32) for tokens in PREFILLS))
    whole_s = REPLY_TOKENS / figures["1 sequences, with prefill, tok/s"]
    decodes_s = (REPLY_TOKENS - 1) / figures["1 sequences, decoding, tok/s"]
    firsts_s = (
        whole_s - decodes_s,
        *(figures[f"prefill of {tokens} tokens, ms"] / 1000 for tokens in (medium, long)),
    )
    passes = (1, 1, -(-long // _STEP_TOKENS))
    prepared_s = [host.prepare_s + host.prepare_token_s * tokens for tokens in lengths]
    return Curve(
        tuple(tokens / count for tokens, count in zip(lengths, passes, strict=True)),
        tuple((all_s - p_s) / n for all_s, p_s, n in zip(firsts_s, prepared_s, passes, strict=True)),
    )
