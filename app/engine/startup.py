"""Owns a model that is ready to serve: loaded, checked, warmed up, an engine of the right size around it.

What the worker process serves, and what a program without a server can use directly.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from app.core.errors import DomainError, ModelLoadFailed, ModelRefused
from app.engine import memory
from app.engine.admission import ChatFormat
from app.engine.core import EngineCore, EngineLimits
from app.engine.ipc.messages import ModelInfo, Outbound, Progress, SamplingParams, Stats, Submit, WorkerSpec
from app.engine.kv.pool import pool_for
from app.engine.loading.load import LoadedModel, ReportStage, load
from app.engine.loading.low_priority import run_at_low_priority
from app.engine.loading.self_check import PackedPath, check_packed_path
from app.engine.memory import MemoryUse
from app.engine.tokenization.template_sandbox import TemplateSandbox

_log = logging.getLogger(__name__)

Report = Callable[[Outbound], None]

_LONG_STEP_S = 0.03  # a model of longer steps gains from every core
_CHECKED_TOKENS = 64  # that a check has room for
_SMALLEST_WINDOW = 16  # tokens; with less cache than this no request makes sense


@dataclass(frozen=True, slots=True)
class ReadyEngine:
    engine: EngineCore
    info: ModelInfo
    memory_use: MemoryUse

    @classmethod
    def start(cls, spec: WorkerSpec, report: Report, started: float | None = None) -> "ReadyEngine":
        """Load, check and warm up, reporting progress. Raises DomainError where the model cannot be served.

        `started` is when the loading began, on the monotonic clock, if before this call.
        """
        began = time.monotonic() if started is None else started
        _prepare(spec)
        sandbox = TemplateSandbox()
        sandbox.start()  # while the model loads
        loaded, parameters, path = run_at_low_priority(lambda: _load(spec, report), spec.low_priority)
        draft = run_at_low_priority(lambda: _draft(spec, loaded), spec.low_priority)
        engine = _engine(spec, loaded, path, draft, sandbox)
        memory.return_freed()
        report(Progress("warm up", 0.0))
        _warm_up(engine, spec.threads)
        report(Progress("warm up", 1.0))
        memory_use = MemoryUse(loaded.model.device)
        info = _info(loaded, path, parameters, engine.limits, memory_use, time.monotonic() - began)
        if draft is not None:
            info = msgspec.structs.replace(info, draft=spec.draft_name)
        return cls(engine, info, memory_use)

    def stats(self) -> Stats:
        return Stats(
            running=self.engine.running,
            waiting=self.engine.waiting,
            kv_used_bytes=self.engine.cache.used_bytes,
            kv_cache_bytes=self.engine.limits.kv_cache_bytes,
            memory_bytes=self.memory_use.used_bytes,
            steps=self.engine.steps,
        )


def _load(spec: WorkerSpec, report: Report) -> tuple[LoadedModel, int, PackedPath]:
    """The model on the engine's path, and its parameters, counted before layers take other forms."""
    _set_threads(spec)  # torch's number is each thread's own
    loaded = load(spec, lambda *stage: report(Progress(*stage)))
    parameters = loaded.model.num_parameters()
    report(Progress("check", 0.0))
    path = _packed(loaded, spec, lambda *stage: report(Progress(*stage)))
    report(Progress("check", 1.0))
    return loaded, parameters, path


def _packed(loaded: LoadedModel, spec: WorkerSpec, report: ReportStage) -> PackedPath:
    pool = pool_for(loaded.model.device, _CHECKED_TOKENS)
    path = check_packed_path(loaded.model, loaded.dtype, spec.quantization, report, pool)
    # Where the output layer shares these weights, packing it has read them all; now a row is a token's.
    rows: Any = loaded.model.get_input_embeddings().weight  # a tensor in every module that has rows
    memory.page_out(rows)
    return path


def _prepare(spec: WorkerSpec) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one prompt at a time; no threads beside torch's
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _set_threads(spec)


def _set_threads(spec: WorkerSpec) -> None:
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)


@dataclass(frozen=True, slots=True)
class _Draft:
    loaded: LoadedModel
    path: PackedPath


def _draft(spec: WorkerSpec, served: LoadedModel) -> _Draft | None:
    """The model that guesses, loaded and checked; None where it cannot: then the served one does without."""
    if spec.draft_path is None:
        return None
    _set_threads(spec)
    try:
        loaded = load(msgspec.structs.replace(spec, model_path=spec.draft_path), lambda *stage: None)
        if loaded.tokenizer.get_vocab() != served.tokenizer.get_vocab():
            raise ModelRefused("its vocabulary is another one")
        path = _packed(loaded, spec, lambda *stage: None)
    except DomainError as error:
        _log.warning("the draft model %s is not used: %s", spec.draft_name, error.message)
        return None
    return _Draft(loaded, path)


def _engine(
    spec: WorkerSpec, loaded: LoadedModel, path: PackedPath, draft: _Draft | None, sandbox: TemplateSandbox
) -> EngineCore:
    paths = [path] if draft is None else [path, draft.path]
    bytes_per_token = sum(each.bytes_per_token for each in paths)
    device = loaded.model.device
    budget = spec.kv_cache_bytes if spec.kv_cache_bytes is not None else memory.cache_budget(device)
    context_length = min(loaded.context_length, budget // bytes_per_token)
    if context_length < min(_SMALLEST_WINDOW, loaded.context_length):
        raise ModelLoadFailed(
            f"a KV cache of {budget} bytes holds {context_length} tokens",
            hint="Give the cache more memory, or choose a smaller model.",
        )
    if context_length < loaded.context_length:
        _log.warning(
            "the context window is %d tokens instead of %d: that is what a KV cache of %d bytes holds",
            context_length,
            loaded.context_length,
            budget,
        )
    limits = EngineLimits(
        context_length=context_length,
        kv_cache_bytes=budget,
        bytes_per_token=bytes_per_token,
        max_active_requests=spec.max_active_requests,
        step_tokens=spec.step_tokens,
    )
    supports_cuda_graphs = all(each.supports_cuda_graphs for each in paths)
    return EngineCore(
        loaded,
        limits,
        pool=pool_for(device, budget // bytes_per_token) if supports_cuda_graphs else None,
        draft=None if draft is None else draft.loaded,
        chat_format=ChatFormat(spec.chat_template, spec.stop),
        sandbox=sandbox,
    )


def _warm_up(engine: EngineCore, threads: int | None) -> None:
    """Short replies, so that the first request does not pay for what torch sets up on first use.

    Where the number of threads was left open they also decide between one and all cores: on the CPU the
    passes of a small model are too short to be shared.
    """
    is_short = _fastest_step_s(engine) <= _LONG_STEP_S
    if threads is None and engine.device.type == "cpu" and is_short:
        _pick_threads(engine)
    engine.cache.forget_finished()
    engine.calibrate_speculation()


def _pick_threads(engine: EngineCore) -> None:
    every = torch.get_num_threads()
    with_every = _fastest_step_s(engine)
    torch.set_num_threads(1)
    if _fastest_step_s(engine) > with_every:
        torch.set_num_threads(every)


def _fastest_step_s(engine: EngineCore) -> float:
    """Of the steps of one short reply: the one least disturbed by whatever else the machine does."""
    sampling = SamplingParams(max_tokens=8, temperature=0)
    engine.submit(Submit("warm up", sampling, prompt="Hello", scope="warm up"))
    fastest = float("inf")
    while not engine.is_idle:
        began = time.monotonic()
        engine.step()
        fastest = min(fastest, time.monotonic() - began)
    return fastest


def _info(
    loaded: LoadedModel,
    path: PackedPath,
    parameters: int,
    limits: EngineLimits,
    memory_use: MemoryUse,
    load_seconds: float,
) -> ModelInfo:
    device = loaded.model.device
    return ModelInfo(
        architecture=type(loaded.model).__name__,
        device=str(device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        weights=path.weights,
        parameters=parameters,
        context_length=limits.context_length,
        memory_bytes=memory_use.used_bytes,
        kv_cache_bytes=limits.kv_cache_bytes,
        load_seconds=load_seconds,
        card_bytes=memory.card_bytes(device),
    )
