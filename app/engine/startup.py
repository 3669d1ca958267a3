"""Builds the engine that serves a model: loads and checks the model, sizes the KV cache, and warms up."""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from app.core.errors import DomainError, ModelLoadFailed, ModelRefused, ModelTooLarge
from app.engine import memory
from app.engine.admission import ChatFormat
from app.engine.core import EngineCore, EngineLimits
from app.engine.execution.packed_decoder import PackedDecoder
from app.engine.grammars.sandbox import GrammarSandbox
from app.engine.ipc.messages import (
    ModelInfo,
    Progress,
    SamplingParams,
    SendProgress,
    Stage,
    Stats,
    Submit,
    WorkerSpec,
)
from app.engine.kv.pool import pool_for
from app.engine.layers import calibration
from app.engine.layers.blocks import block_parameters
from app.engine.loading.load import LoadedModel, ReportStage, load
from app.engine.loading.low_priority import run_at_low_priority
from app.engine.loading.self_check import PackedPath, check_packed_path
from app.engine.memory import MemoryUse
from app.engine.tokenization.template_sandbox import TemplateSandbox

_log = logging.getLogger(__name__)

_LONG_STEP_S = 0.03  # a model with longer steps is faster on all cores
_CROWDED_S = 10  # after which other programs may have freed memory
_CHECK_TOKENS = 64  # the size of the KV pool for the self-check
_STEP_TOKENS = 512
_STEP_TOKENS_CUDA = 2048  # a pass over fewer takes as long, because launching its kernels does
_UNNOTICED_STEP_S = 0.02
_SMALLEST_WINDOW = 16  # tokens; a smaller window is of no use


@dataclass(frozen=True, slots=True)
class ReadyEngine:
    """An engine that can serve requests, with the facts about its model."""

    engine: EngineCore
    info: ModelInfo
    memory_use: MemoryUse
    sandbox: TemplateSandbox
    grammar_sandbox: GrammarSandbox

    def close(self) -> None:
        """Ends the processes that render the chat template and check grammars."""
        self.sandbox.close()
        self.grammar_sandbox.close()

    def stats(self) -> Stats:
        return Stats(
            running=self.engine.running,
            waiting=self.engine.waiting,
            kv_used_bytes=self.engine.cache.used_bytes,
            kv_cache_bytes=self.engine.limits.kv_cache_bytes,
            memory_bytes=self.memory_use.used_bytes,
            steps=self.engine.steps,
        )

    def trim(self) -> None:
        """Return freed memory to the system. This takes milliseconds."""
        memory.return_freed()


def build_engine(spec: WorkerSpec, report: SendProgress, started: float | None = None) -> ReadyEngine:
    """Returns an engine for the model of `spec`. `report` is called with the progress.

    `started` is the time on the monotonic clock when loading began, if that was before this call.

    Raises:
        DomainError: the model cannot be served.
    """
    started = time.monotonic() if started is None else started
    _prepare(spec)
    sandbox = TemplateSandbox()
    sandbox.start()  # its process starts while the model loads
    try:
        return _build(spec, report, sandbox, started)
    except BaseException as error:
        sandbox.close()
        if memory.is_exhaustion(error):
            raise _no_memory(spec) from error
        raise


def _no_memory(spec: WorkerSpec) -> ModelTooLarge:
    return ModelTooLarge(
        f"The memory did not suffice for loading {spec.model_name}.",
        hint="Choose a smaller model, unload another one, or set LLM_QUANTIZATION=int8 or int4.",
        retry_after=_CROWDED_S,
    )


def _build(spec: WorkerSpec, report: SendProgress, sandbox: TemplateSandbox, started: float) -> ReadyEngine:
    served = run_at_low_priority(partial(_load_served, spec, report), spec.low_priority)
    draft = run_at_low_priority(partial(_load_draft, spec, served.loaded), spec.low_priority)
    grammar_sandbox = GrammarSandbox()
    engine = _make_engine(spec, served, draft, sandbox, grammar_sandbox)
    memory.return_freed()
    report(Progress("warm up", 0.0))
    _warm_up(engine, spec.threads)
    report(Progress("warm up", 1.0))
    memory_use = MemoryUse(engine.device)
    info = _info(served, engine.limits, memory_use, time.monotonic() - started)
    if draft is not None:
        info = msgspec.structs.replace(info, draft=spec.draft_name)
    return ReadyEngine(engine, info, memory_use, sandbox, grammar_sandbox)


@dataclass(frozen=True, slots=True)
class _CheckedModel:
    """A model that passed the self-check. `parameters` were counted before its layers were packed."""

    loaded: LoadedModel
    parameters: int
    path: PackedPath


def _load_served(spec: WorkerSpec, report: SendProgress) -> _CheckedModel:
    report_stage = _stage_reporter(report)
    _set_threads(spec)  # torch keeps this number per thread
    loaded = load(spec, report_stage)
    report(Progress("check", 0.0))
    checked = _check(loaded, spec, report_stage)
    report(Progress("check", 1.0))
    return checked


def _stage_reporter(report: SendProgress) -> ReportStage:
    def report_stage(stage: Stage, fraction: float) -> None:
        report(Progress(stage, fraction))

    return report_stage


def _check(loaded: LoadedModel, spec: WorkerSpec, report: ReportStage) -> _CheckedModel:
    parameters = loaded.model.num_parameters() + block_parameters(loaded.model)
    pool = pool_for(loaded.model.device, _CHECK_TOKENS)
    calibration_ids = loaded.tokenizer.encode(calibration.TEXT)
    path = check_packed_path(loaded.model, loaded.dtype, spec.quantization, report, pool, calibration_ids)
    # An output layer may share these weights, and packing it read them all. Now each token reads one row.
    embeddings: Any = loaded.model.get_input_embeddings().weight  # nn.Module does not declare it
    memory.page_out(embeddings)
    return _CheckedModel(loaded, parameters, path)


def _prepare(spec: WorkerSpec) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one prompt at a time needs no threads beside torch's
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles its attention anew for each length
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _set_threads(spec)


def _set_threads(spec: WorkerSpec) -> None:
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)


def _load_draft(spec: WorkerSpec, served: LoadedModel) -> _CheckedModel | None:
    """Returns the draft model; None if the spec names none, or if it cannot be used, which is logged."""
    if spec.draft_path is None:
        return None
    _set_threads(spec)
    try:
        loaded = load(msgspec.structs.replace(spec, model_path=spec.draft_path), lambda *stage: None)
        if loaded.tokenizer.get_vocab() != served.tokenizer.get_vocab():
            raise ModelRefused("its vocabulary differs")
        return _check(loaded, spec, lambda *stage: None)
    except DomainError as error:
        _log.warning("the draft model %s is not used: %s", spec.draft_name, error.message)
        return None


def _make_engine(
    spec: WorkerSpec,
    served: _CheckedModel,
    draft: _CheckedModel | None,
    sandbox: TemplateSandbox,
    grammar_sandbox: GrammarSandbox,
) -> EngineCore:
    loaded, paths = served.loaded, [served.path] if draft is None else [served.path, draft.path]
    bytes_per_token = sum(path.bytes_per_token for path in paths)
    limits = _limits(spec, loaded, bytes_per_token)
    supports_cuda_graphs = all(path.supports_cuda_graphs for path in paths)
    pool_tokens = limits.kv_cache_bytes // bytes_per_token
    decoder = PackedDecoder(
        loaded,
        kv_cache_bytes=limits.kv_cache_bytes,
        bytes_per_token=bytes_per_token,
        context_length=limits.context_length,
        pool=pool_for(loaded.model.device, pool_tokens) if supports_cuda_graphs else None,
        draft=None if draft is None else draft.loaded,
    )
    return EngineCore(
        loaded,
        decoder,
        limits,
        chat_format=ChatFormat(spec.chat_template, spec.stop),
        sandbox=sandbox,
        grammar_sandbox=grammar_sandbox,
    )


def _limits(spec: WorkerSpec, loaded: LoadedModel, bytes_per_token: int) -> EngineLimits:
    """Returns the size of the KV cache, and a context window that fits into it.

    Raises:
        ModelLoadFailed: the cache is too small for any request.
    """
    budget = _cache_bytes(spec, loaded, bytes_per_token)
    context_length = min(loaded.context_length, budget // bytes_per_token)
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
    )


def _cache_bytes(spec: WorkerSpec, loaded: LoadedModel, bytes_per_token: int) -> int:
    if spec.kv_cache_bytes is not None:
        return spec.kv_cache_bytes
    window_bytes = loaded.context_length * bytes_per_token
    budget = memory.cache_budget(loaded.model.device, window_bytes, spec.max_active_requests)
    _log.info("the KV cache takes at most %d MB (LLM_KV_CACHE_GB=auto)", budget // 1_000_000)
    return budget


def _warm_up(engine: EngineCore, threads: int | None) -> None:
    """Generates short replies, so that the first request does not wait for torch's lazy initialisation.

    If no number of threads is set, their speed also decides between one core and all of them: a forward pass
    of a small model is too short to be shared by cores.
    """
    is_short = _fastest_step_s(engine) <= _LONG_STEP_S
    if threads is None and engine.device.type == "cpu" and is_short:
        _pick_threads(engine)
    engine.cache.forget_finished()
    engine.calibrate()


def _pick_threads(engine: EngineCore) -> None:
    all_threads = torch.get_num_threads()
    all_threads_s = _fastest_step_s(engine)
    torch.set_num_threads(1)
    if _fastest_step_s(engine) > all_threads_s:
        torch.set_num_threads(all_threads)


def _fastest_step_s(engine: EngineCore) -> float:
    """Returns the duration of the shortest step of a reply: the one that other programs disturbed least."""
    sampling = SamplingParams(max_tokens=8, temperature=0)
    engine.submit(Submit("warm up", sampling, prompt="Hello", scope="warm up"))
    fastest = float("inf")
    while not engine.is_idle:
        began = time.monotonic()
        engine.step()
        fastest = min(fastest, time.monotonic() - began)
    return fastest


def _info(
    served: _CheckedModel, limits: EngineLimits, memory_use: MemoryUse, load_seconds: float
) -> ModelInfo:
    loaded, device = served.loaded, served.loaded.model.device
    return ModelInfo(
        architecture=type(loaded.model).__name__,
        device=str(device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        weights=served.path.weights,
        parameters=served.parameters,
        context_length=limits.context_length,
        memory_bytes=memory_use.used_bytes,
        kv_cache_bytes=limits.kv_cache_bytes,
        load_seconds=load_seconds,
        card_bytes=memory.card_bytes(device),
    )
