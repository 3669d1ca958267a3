"""Loads a model and finds the path that serves it: packed if possible, else with a cache per sequence."""

import gc
import logging
from dataclasses import dataclass
from typing import Any

from app.core.errors import ModelUnsupported
from app.core.model_folder import is_gguf
from app.engine import memory
from app.engine.ipc.messages import Stage, WorkerSpec
from app.engine.kv.pool import pool_for
from app.engine.layers.blocks import block_parameters
from app.engine.loading.load import LoadedModel, ReportStage, load
from app.engine.loading.self_check import PackedPath, check_packed_path, refuse_unpackable
from app.engine.own_cache.check import OwnPath, check_converted, check_unchanged, refuse_unservable

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
    """Why the model is not packed. Nothing here refers to the model, because the next attempt needs room."""

    reason: str
    has_tried_converted: bool = False  # whether own caches failed, too, with converted layers


def load_checked(spec: WorkerSpec, report: ReportStage) -> CheckedModel:
    """Returns the model of the spec, converted for the path that serves it.

    What an architecture cannot do is found before its layers are converted. A check that fails afterwards has
    changed them, so each further attempt loads the model again.

    Raises ModelUnavailable if the model cannot be loaded, or is served rightly on no path.
    """
    found = _first_attempt(spec, report)
    if isinstance(found, _Failure) and not found.has_tried_converted:
        found = _converted(spec, None, report, found.reason)
    if isinstance(found, _Failure):
        loaded = _loaded_again(spec, widens=True)
        found = CheckedModel(loaded, _parameters(loaded), check_unchanged(loaded.model, found.reason))
    report("check", 1.0)
    return found


def _first_attempt(spec: WorkerSpec, report: ReportStage) -> CheckedModel | _Failure:
    loaded = load(spec, report)
    if loaded.model.config.get_text_config().num_hidden_layers < 1:
        raise ModelUnsupported("config.json describes a model without layers")
    report("check", 0.0)
    try:
        refuse_unpackable(loaded.model, loaded.dtype)
    except ModelUnsupported as error:
        return _converted(spec, loaded, report, error.message)
    parameters = _parameters(loaded)
    try:
        return CheckedModel(loaded, parameters, pack_and_check(loaded, spec, report))
    except ModelUnsupported as error:
        return _Failure(error.message)


def pack_and_check(loaded: LoadedModel, spec: WorkerSpec, report: ReportStage) -> PackedPath:
    """Converts the model to the packed path. Raises ModelUnsupported if its logits are wrong there."""
    pool = pool_for(loaded.model.device, _CHECK_TOKENS)
    path = check_packed_path(loaded.model, loaded.dtype, spec.quantization, report, pool)
    # An output layer may share these weights, and packing it read them all. Now each token reads one row.
    embeddings: Any = loaded.model.get_input_embeddings().weight  # nn.Module does not declare it
    memory.page_out(embeddings)
    return path


def _converted(
    spec: WorkerSpec, loaded: LoadedModel | None, report: ReportStage, reason: str
) -> CheckedModel | _Failure:
    """Tries own caches with converted layers, of a model that is loaded here if it is not given."""
    loaded = _loaded_again(spec) if loaded is None else loaded
    parameters = _parameters(loaded)
    if not _has_narrow_weights(loaded):
        refuse_unservable(loaded.model, loaded.dtype)
    try:
        path = check_converted(loaded.model, loaded.dtype, spec.quantization, reason, report)
        return CheckedModel(loaded, parameters, path)
    except ModelUnsupported as error:
        if spec.quantization != "none":
            raise ModelUnsupported(error.message, hint="Set LLM_QUANTIZATION=none.") from error
        if is_gguf(spec.model_path):
            raise
        return _Failure(reason, has_tried_converted=True)


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
