"""Reads the figures of the models as they are now. Nothing here waits for a worker."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.engine.backend import EngineTotals
from app.models.lifecycle.state import ModelState
from app.models.metrics.labels import ModelLabels

_GAUGES = {
    "vllm:num_requests_running": "Requests in the batch.",
    "vllm:num_requests_waiting": "Requests that wait.",
    "vllm:kv_cache_usage_perc": "Used share of the KV cache, 0 to 1.",
    "llm_worker_memory_bytes": "Memory of the worker.",
    "llm_model_loaded": "1 if the model can serve, else 0.",
}
_COUNTERS = {
    "vllm:num_preemptions": "Times that a running request had to give up its KV cache.",
    "vllm:spec_decode_num_drafts": "Sequences of draft tokens that were verified.",
    "vllm:spec_decode_num_draft_tokens": "Draft tokens that were verified.",
    "vllm:spec_decode_num_accepted_tokens": "Draft tokens that were accepted.",
}


def model_figures(states: Iterable[ModelState], labels: ModelLabels) -> list[Metric]:
    """Returns the figures of the models that are or were loaded, are being loaded or have failed.

    The figures of models that share a label are added.
    """
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for state in states:
        if is_known(state):
            label = labels.of(state.name)
            for name, value in (_gauges_of(state) | _totals_of(state)).items():
                sums[name, label] += value
    families: list[Metric] = []
    for name, text in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=["model_name"])
        for label, value in _samples(sums, name):
            gauge.add_metric([label], value)
        families.append(gauge)
    for name, text in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=["model_name"])
        for label, value in _samples(sums, name):
            counter.add_metric([label], value)
        families.append(counter)
    return families


def is_known(state: ModelState) -> bool:
    """Returns whether the model is or was loaded, is being loaded, or has failed."""
    return state.status != "available" or state.totals != EngineTotals()


def _samples(sums: Mapping[tuple[str, str], float], name: str) -> Iterator[tuple[str, float]]:
    return ((label, value) for (found, label), value in sums.items() if found == name)


def _gauges_of(state: ModelState) -> dict[str, float]:
    if state.loaded is None:
        return {"llm_model_loaded": 0}
    stats = state.loaded.backend.stats
    return {
        "vllm:num_requests_running": stats.running,
        "vllm:num_requests_waiting": stats.open_requests - stats.running,
        "vllm:kv_cache_usage_perc": stats.kv_used_bytes / max(stats.kv_cache_bytes, 1),
        "llm_worker_memory_bytes": stats.memory_bytes,
        "llm_model_loaded": int(state.is_serving),
    }


def _totals_of(state: ModelState) -> dict[str, float]:
    """Returns what all engines of the model have counted."""
    current = EngineTotals() if state.loaded is None else state.loaded.backend.stats.totals
    totals = state.totals + current
    return {
        "vllm:num_preemptions": totals.preemptions,
        "vllm:spec_decode_num_drafts": totals.drafts,
        "vllm:spec_decode_num_draft_tokens": totals.draft_tokens,
        "vllm:spec_decode_num_accepted_tokens": totals.accepted_tokens,
    }
