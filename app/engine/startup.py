"""Builds the engine that serves a model: loads and checks the model, sizes the KV cache, and warms up."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from app.core.errors import ModelTooLarge
from app.core.literals import CacheKind
from app.core.machine import usable_cores
from app.core.model_folder import weights
from app.engine import memory
from app.engine.admission import ChatFormat
from app.engine.core import EngineCore, EngineLimits
from app.engine.decoders import decoder_for, limits_for, sequence_bytes
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
from app.engine.loading.load import ReportStage
from app.engine.loading.low_priority import run_at_low_priority
from app.engine.loading.serving_path import CheckedModel, load_checked
from app.engine.memory import MemoryUse
from app.engine.own_cache.check import OwnPath
from app.engine.own_cache.passes import Joining
from app.engine.own_cache.runner import CachePlace
from app.engine.sandbox.grammar_sandbox import GrammarSandbox
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.speculative.draft_load import CheckedDraft, load_draft, usable_draft

_LONG_STEP_S = 0.03  # a model with longer steps is faster on all cores
_CROWDED_S = 10  # after which other programs may have freed memory
_WORKING_BYTES = 2_000_000_000  # that requests may take beside keys and values, and half a model more


@dataclass(frozen=True, slots=True)
class ReadyEngine:
    """An engine that can serve requests, with the facts about its model."""

    engine: EngineCore
    info: ModelInfo
    memory_use: MemoryUse
    sandbox: TemplateSandbox
    grammar_sandbox: GrammarSandbox

    def close(self) -> None:
        """Ends the processes that render the chat template and check grammars, and frees device memory."""
        self.sandbox.close()
        self.grammar_sandbox.close()
        self.engine.decoder.recover()

    def stats(self) -> Stats:
        return Stats(
            running=self.engine.running,
            waiting=self.engine.waiting,
            kv_used_bytes=self.engine.cache.used_bytes,
            kv_cache_bytes=self.engine.limits.kv_cache_bytes,
            memory_bytes=self.memory_use.used_bytes,
            steps=self.engine.steps,
            preemptions=self.engine.preemptions,
            drafts=self.engine.drafts,
            draft_tokens=self.engine.draft_tokens,
            accepted_tokens=self.engine.accepted_tokens,
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


def bound_growth(ready: ReadyEngine) -> None:
    """Limits what requests may add to the memory of this process: keys and values, and what computing takes.

    Call it in a process that serves nothing else. On a graphics card there is no limit, because the driver's
    mappings on the host are not known beforehand.
    """
    if ready.engine.device.type == "cpu":
        working_bytes = _WORKING_BYTES + ready.memory_use.used_bytes // 2
        memory.bound_growth(ready.engine.limits.kv_cache_bytes + working_bytes)


def _no_memory(spec: WorkerSpec) -> ModelTooLarge:
    return ModelTooLarge(
        f"The memory did not suffice for loading {spec.model_name}.",
        hint="Choose a smaller model, unload another one, or set LLM_QUANTIZATION=int8 or int4.",
        retry_after=_CROWDED_S,
    )


def _build(spec: WorkerSpec, report: SendProgress, sandbox: TemplateSandbox, started: float) -> ReadyEngine:
    served = run_at_low_priority(partial(_load_served, spec, report), spec.low_priority)
    draft = run_at_low_priority(partial(_load_draft, spec, served), spec.low_priority)
    grammar_sandbox = GrammarSandbox()
    engine = _make_engine(spec, served, draft, sandbox, grammar_sandbox)
    memory.return_freed()
    # Most layers have copies of their weights by now, and the stored ones are seldom read again.
    for path in filter(None, (spec.model_path, spec.draft_path)):
        memory.unmap_files(weights(Path(path)))
    report(Progress("warm up", 0.0))
    _warm_up(engine, spec.threads)
    report(Progress("warm up", 1.0))
    memory_use = MemoryUse(engine.device)
    info = _info(served, engine.limits, memory_use, time.monotonic() - started)
    if draft is not None:
        info = msgspec.structs.replace(info, draft=spec.draft_name)
    return ReadyEngine(engine, info, memory_use, sandbox, grammar_sandbox)


def _load_served(spec: WorkerSpec, report: SendProgress) -> CheckedModel:
    _set_threads(spec)  # torch keeps this number per thread
    return load_checked(spec, _stage_reporter(report))


def _stage_reporter(report: SendProgress) -> ReportStage:
    def report_stage(stage: Stage, fraction: float) -> None:
        report(Progress(stage, fraction))

    return report_stage


def _prepare(spec: WorkerSpec) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one prompt at a time needs no threads beside torch's
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles its attention again for each length
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _set_threads(spec)


def _set_threads(spec: WorkerSpec) -> None:
    """Sets torch's number of threads, whose default ignores the quota of a control group."""
    usable = min(torch.get_num_threads(), usable_cores())
    torch.set_num_threads(usable if spec.threads is None else spec.threads)


def _load_draft(spec: WorkerSpec, served: CheckedModel) -> CheckedDraft | None:
    if spec.draft_path is None:
        return None
    _set_threads(spec)
    return usable_draft(spec.draft_name, partial(load_draft, spec, served))


def _make_engine(
    spec: WorkerSpec,
    served: CheckedModel,
    draft: CheckedDraft | None,
    sandbox: TemplateSandbox,
    grammar_sandbox: GrammarSandbox,
) -> EngineCore:
    size = sequence_bytes(served, draft)
    limits = limits_for(spec, served, size)
    return EngineCore(
        served.loaded,
        decoder_for(served, limits, size, draft),
        limits,
        chat_format=ChatFormat(spec.chat_template, spec.stop),
        sandbox=sandbox,
        grammar_sandbox=grammar_sandbox,
    )


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
    served: CheckedModel, limits: EngineLimits, memory_use: MemoryUse, load_seconds: float
) -> ModelInfo:
    loaded, device = served.loaded, served.loaded.model.device
    own = served.path if isinstance(served.path, OwnPath) else None
    return ModelInfo(
        architecture=type(loaded.model).__name__,
        device=str(device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        weights=served.path.weights,
        cache=_cache_kind(own),
        cache_reason=_reason(own) if own else None,
        guessed_template=loaded.guessed_template,
        parameters=served.parameters,
        context_length=limits.context_length,
        memory_bytes=memory_use.used_bytes,
        kv_cache_bytes=limits.kv_cache_bytes,
        load_seconds=load_seconds,
        card_bytes=memory.card_bytes(device),
    )


def _cache_kind(own: OwnPath | None) -> CacheKind:
    if own is None:
        return "packed"
    return "none" if own.options.place is CachePlace.NOWHERE else "own"


def _reason(own: OwnPath) -> str:
    if own.options.place is CachePlace.NOWHERE:
        return f"{own.reason}; its own cache cannot be used either, so each token computes all earlier ones"
    passes = "each sequence has a pass" if own.options.joining is Joining.NEVER else "sequences share passes"
    return f"{own.reason}; {passes} of the model's own code, without draft tokens"
