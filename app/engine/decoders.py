"""Builds the decoder of a checked model, and sizes its caches and its context window."""

import logging

from app.core.errors import ModelLoadFailed
from app.engine import memory
from app.engine.core import EngineLimits
from app.engine.execution.decoder import Decoder
from app.engine.execution.packed_decoder import PackedDecoder
from app.engine.ipc.messages import WorkerSpec
from app.engine.kv.pool import pool_for
from app.engine.kv.sequence_bytes import SequenceBytes
from app.engine.loading.self_check import PackedPath
from app.engine.loading.serving_path import CheckedModel
from app.engine.own_cache.caches import OwnCaches
from app.engine.own_cache.check import OwnPath
from app.engine.own_cache.decoder import OwnCacheDecoder
from app.engine.own_cache.runner import OwnForward
from app.engine.speculative.draft_load import CheckedDraft

_log = logging.getLogger(__name__)

_STEP_TOKENS = 512
_STEP_TOKENS_CUDA = 2048  # a pass over fewer takes as long, because launching its kernels does
_UNNOTICED_STEP_S = 0.02
_HALF_BYTES = 2  # of a 16-bit number
_SMALLEST_WINDOW = 16  # tokens; a smaller window is of no use


def sequence_bytes(served: CheckedModel, draft: CheckedDraft | None = None) -> SequenceBytes:
    """Returns the memory of one sequence, including the draft model's share."""
    match served.path:
        case OwnPath(sequence_bytes=size):
            return size
        case PackedPath(bytes_per_token=per_token):
            return SequenceBytes(per_token + (0 if draft is None else draft.path.bytes_per_token))


def decoder_for(
    served: CheckedModel, limits: EngineLimits, size: SequenceBytes, draft: CheckedDraft | None = None
) -> Decoder:
    """Returns the decoder of the path that the check has found. Sequences take `size`."""
    match served.path:
        case OwnPath() as own:
            caches = OwnCaches(
                budget_bytes=limits.kv_cache_bytes,
                sequence_bytes=size,
                max_tokens=limits.context_length,
                is_divisible=own.is_divisible,
                has_checkpoints=not own.can_crop,
            )
            return OwnCacheDecoder(caches, OwnForward(served.loaded.model, own.options), limits.step_tokens)
        case PackedPath() as packed:
            has_graphs = packed.supports_cuda_graphs and (draft is None or draft.path.supports_cuda_graphs)
            tokens = limits.kv_cache_bytes // size.per_token
            return PackedDecoder(
                served.loaded,
                kv_cache_bytes=limits.kv_cache_bytes,
                bytes_per_token=size.per_token,
                context_length=limits.context_length,
                pool=pool_for(served.loaded.model.device, tokens) if has_graphs else None,
                draft=None if draft is None else draft.loaded,
            )


def limits_for(spec: WorkerSpec, served: CheckedModel, size: SequenceBytes) -> EngineLimits:
    """Returns the size of the KV cache, and a context window that fits into it.

    Raises:
        ModelLoadFailed: the cache is too small for any request.
    """
    loaded, budget = served.loaded, _cache_bytes(spec, served, size)
    context_length = size.longest(budget, loaded.context_length)
    if context_length < min(_SMALLEST_WINDOW, loaded.context_length):
        raise ModelLoadFailed(
            f"a KV cache of {budget} bytes holds {context_length} tokens",
            hint="Give the cache more memory, or choose a smaller model.",
        )
    if context_length < loaded.context_length:
        _log.warning(
            "the context window is %d tokens instead of %d, because a KV cache of %d bytes holds no more",
            context_length,
            loaded.context_length,
            budget,
        )
    is_cuda = loaded.model.device.type == "cuda"
    usual = _STEP_TOKENS_CUDA if is_cuda else _STEP_TOKENS
    return EngineLimits(
        context_length=context_length,
        kv_cache_bytes=budget,
        max_active_requests=spec.max_active_requests,
        step_tokens=usual if spec.step_tokens is None else spec.step_tokens,
        unnoticed_step_s=_UNNOTICED_STEP_S if is_cuda else 0.0,
        overlaps_steps=is_cuda,
        adapts_threads=spec.threads is None and loaded.model.device.type == "cpu",
    )


def _cache_bytes(spec: WorkerSpec, served: CheckedModel, size: SequenceBytes) -> int:
    if spec.kv_cache_bytes is not None:
        return spec.kv_cache_bytes
    budget = memory.cache_budget(
        served.loaded.model.device,
        window_bytes=size.of(served.loaded.context_length),
        requests=spec.max_active_requests,
        weight_bytes=_HALF_BYTES * served.parameters,
    )
    _log.info("the KV cache takes at most %d MB (LLM_KV_CACHE_GB=auto)", budget // 1_000_000)
    return budget
