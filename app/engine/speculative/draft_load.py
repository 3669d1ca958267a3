"""Loads the draft model of an engine, which serves its model without one if that fails."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from app.core.errors import DomainError, ModelRefused
from app.engine import memory
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import LoadedModel, load
from app.engine.loading.self_check import PackedPath
from app.engine.loading.serving_path import CheckedModel, pack_and_check
from app.engine.own_cache.check import OwnPath

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedDraft:
    """A draft model, which is always packed."""

    loaded: LoadedModel
    path: PackedPath


def load_draft(spec: WorkerSpec, served: CheckedModel) -> CheckedDraft:
    """Returns the draft model of the spec for the served model.

    Raises DomainError if it cannot be loaded, or cannot draft for that model.
    """
    if isinstance(served.path, OwnPath):
        raise ModelRefused("the served model cannot take back draft tokens that were wrong")
    loaded = load(
        msgspec.structs.replace(spec, model_path=spec.draft_path, adapter_path=None), lambda *stage: None
    )
    if loaded.tokenizer.get_vocab() != served.loaded.tokenizer.get_vocab():
        raise ModelRefused("its vocabulary differs")
    return CheckedDraft(loaded, pack_and_check(loaded, spec, lambda *stage: None))


def usable_draft(name: str | None, load_it: Callable[[], CheckedDraft]) -> CheckedDraft | None:
    """Returns the draft model; None if it cannot be used or memory runs out, which is logged."""
    try:
        return load_it()
    except Exception as error:  # libraries raise many classes when memory runs out
        if not isinstance(error, DomainError) and not memory.is_exhaustion(error):
            raise
        reason = error.message if isinstance(error, DomainError) else "the memory does not suffice"
    _log.warning("the draft model %s is not used: %s", name, reason)
    return None
