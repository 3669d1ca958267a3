"""Loads a model and finds the path that serves it: packed if possible, else with a cache per sequence."""

import gc
import logging
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from app.core.errors import ModelUnsupported
from app.core.gguf_names import is_gguf
from app.engine.execution.thread_count import adapting_threads
from app.engine.ipc.messages import Stage, WorkerSpec
from app.engine.kv.pool import pool_for
from app.engine.layers.blocks import block_parameters
from app.engine.loading.load import LoadedModel, ReportStage, load
from app.engine.loading.reference import Reference, compute_reference, measure_rounding
from app.engine.loading.self_check import PackedPath, check_packed_path, check_unconverted
from app.engine.own_cache.check import OwnPath, check_converted, check_unchanged, working_options

_log = logging.getLogger(__name__)

_CHECK_TOKENS = 64  # the size of the KV pool for the self-check


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model that passed its check. `parameters` were counted before its layers were packed."""

    loaded: LoadedModel
    parameters: int
    path: PackedPath | OwnPath


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the model is not packed. Nothing here refers to the model, because the next attempt needs room.

    Without a `reference`, converted layers need not be tried.
    """

    reason: str
    reference: Reference | None = None


def load_checked(spec: WorkerSpec, report: ReportStage) -> CheckedModel:
    """Returns the model of the spec, converted for the path that serves it.

    What an architecture cannot do is found before its layers are converted. A check that fails afterwards has
    changed them, so each further attempt loads the model again.

    Raises ModelUnavailable if the model cannot be loaded, or is served rightly on no path.
    """
    found = _first_attempt(spec, report)
    if isinstance(found, _Failure) and found.reference is not None:
        found = _converted(spec, _loaded_again(spec), report, found.reason, found.reference)
    if isinstance(found, _Failure):
        loaded = _loaded_again(spec, widens=True)
        found = CheckedModel(loaded, _parameters(loaded), check_unchanged(loaded.model, found.reason))
    report("check", 1.0)
    return found


def _first_attempt(spec: WorkerSpec, report: ReportStage) -> CheckedModel | _Failure:
    loaded = load(spec, report)
    if getattr(loaded.model.config.get_text_config(), "num_hidden_layers", 1) < 1:
        raise ModelUnsupported("config.json describes a model without layers")
    report("check", 0.0)
    if spec.threads is not None or loaded.model.device.type != "cpu":
        return _checked(spec, loaded, report)
    with adapting_threads(_layers(loaded.model)):
        return _checked(spec, loaded, report)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Returns the model's layers; none if it keeps them in another form than a list."""
    return next((list(part) for part in model.modules() if isinstance(part, nn.ModuleList)), [])


def _checked(spec: WorkerSpec, loaded: LoadedModel, report: ReportStage) -> CheckedModel | _Failure:
    try:
        reference = compute_reference(loaded.model, loaded.dtype)
    except ModelUnsupported as error:
        if not _has_narrow_weights(loaded):
            raise
        return _failed_narrow(spec, error, error.message)
    try:
        reference = check_unconverted(loaded.model, loaded.dtype, reference)
    except ModelUnsupported as error:
        return _converted(spec, loaded, report, error.message, reference)
    parameters = _parameters(loaded)
    try:
        return CheckedModel(loaded, parameters, pack_and_check(loaded, spec, report, reference))
    except ModelUnsupported as error:
        return _Failure(error.message, reference)


def pack_and_check(
    loaded: LoadedModel, spec: WorkerSpec, report: ReportStage, reference: Reference | None = None
) -> PackedPath:
    """Converts the model to the packed path. Raises ModelUnsupported if its logits are wrong there."""
    pool = pool_for(loaded.model.device, _CHECK_TOKENS)
    return check_packed_path(loaded.model, loaded.dtype, spec.quantization, report, pool, reference)


def _converted(
    spec: WorkerSpec, loaded: LoadedModel, report: ReportStage, reason: str, reference: Reference
) -> CheckedModel | _Failure:
    """Tries own caches with converted layers."""
    parameters = _parameters(loaded)
    reference = measure_rounding(loaded.model, loaded.dtype, reference)
    options = None
    if not _has_narrow_weights(loaded):
        options = working_options(loaded.model, loaded.dtype, reference)
    try:
        path = check_converted(
            loaded.model, loaded.dtype, spec.quantization, reason, reference, report, options
        )
        return CheckedModel(loaded, parameters, path)
    except ModelUnsupported as error:
        return _failed_narrow(spec, error, reason)


def _failed_narrow(spec: WorkerSpec, error: ModelUnsupported, reason: str) -> _Failure:
    """Returns the failure of a model that may work with its layers as they are, and with wider weights.

    Raises ModelUnsupported if the settings or its file keep it from being tried so.
    """
    if spec.quantization != "none":
        raise ModelUnsupported(error.message, hint="Set LLM_QUANTIZATION=none.") from error
    if is_gguf(spec.model_path):
        raise error
    return _Failure(reason)


def _has_narrow_weights(loaded: LoadedModel) -> bool:
    """Returns whether weights have fewer bits than the computation, which some layers' code cannot take."""
    weights = (weight for weight in loaded.model.parameters() if weight.is_floating_point())
    return any(weight.element_size() < loaded.dtype.itemsize for weight in weights)


def _parameters(loaded: LoadedModel) -> int:
    return loaded.model.num_parameters() + block_parameters(loaded.model)


def _loaded_again(spec: WorkerSpec, *, widens: bool = False) -> LoadedModel:
    gc.collect()  # the modules of the failed attempt refer to each other
    _log.info("loading the weights again, because the check failed with converted layers")

    def report_nothing(stage: Stage, fraction: float) -> None:
        """The first load has reported its progress."""

    return load(spec, report_nothing, widens=widens)
