"""Checks at load that a model computes the right logits with its own cache, and how it may be used.

Some architectures ignore their cache in a pass over several ids. Theirs take single ids after the first pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.core.errors import ModelUnsupported
from app.core.literals import Quantization
from app.engine.kv.sequence_bytes import SequenceBytes
from app.engine.layers.calibration import record
from app.engine.layers.prepare import convert_layers
from app.engine.layers.schemes import as_computed
from app.engine.loading.load import ReportStage
from app.engine.loading.reference import (
    OTHERS,
    computing_in,
    failures_as_unsupported,
    own_logits,
    refuse_difference,
    refuse_infinite,
    some_ids,
)
from app.engine.own_cache.runner import OwnForward
from app.engine.own_cache.sequence_state import SequenceState, cache_argument, storage_bytes
from app.engine.scheduling.sequence import Chunk, TokenSequence

_LENGTHS = (13, 9)  # tokens of two sequences whose passes alternate
_IN_CHUNKS = ((5, 4), (5, 2), (1, 1), (1, 1), (1, 1))  # tokens of each sequence in each pass
_AT_ONCE = ((10, 6), (1, 1), (1, 1), (1, 1))


@dataclass(frozen=True, slots=True)
class OwnPath:
    """The facts that the check has found about a model."""

    weights: str  # name of the linear layers' scheme
    reason: str  # why the model is not packed
    sequence_bytes: SequenceBytes
    is_divisible: bool  # whether prompts may be read in chunks
    can_crop: bool  # whether a cache can be shortened to any length


def check_converted(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization,
    reason: str,
    report: ReportStage = lambda stage, fraction: None,
    calibration_ids: Sequence[int] = (),
) -> OwnPath:
    """Converts the model's linear layers, to compute in `dtype`, and checks its logits.

    Raises ModelUnsupported if they differ from those without a cache, or if it has no cache.
    """
    with failures_as_unsupported(model):
        _refuse_without_cache(model)
        prompts = _prompts(model)
        with computing_in(dtype, model):
            expected = own_logits(model, prompts)
            refuse_infinite(model, expected, dtype)
            calibration = (
                record(model, calibration_ids) if quantization == "int8" and calibration_ids else None
            )
        report("pack", 0.0)
        scheme = convert_layers(
            model,
            dtype,
            quantization,
            lambda fraction: report("pack", fraction),
            calibration,
            fuses=False,
        )
        report("pack", 1.0)
        return _path(model, prompts, expected, scheme.name, scheme.tolerance, reason)


def check_unchanged(model: PreTrainedModel, reason: str) -> OwnPath:
    """Checks the logits of the model as it is. Raises what `check_converted` raises."""
    with failures_as_unsupported(model):
        _refuse_without_cache(model)
        prompts = _prompts(model)
        expected = own_logits(model, prompts)
        refuse_infinite(model, expected, model.dtype)
        scheme = as_computed(model.dtype)
        return _path(model, prompts, expected, scheme.name, scheme.tolerance, reason)


def _refuse_without_cache(model: PreTrainedModel) -> None:
    if cache_argument(model) is None:
        raise ModelUnsupported(
            f"{type(model).__name__} keeps no cache that a sequence could have for itself", hint=OTHERS
        )


def _prompts(model: PreTrainedModel) -> list[list[int]]:
    return [some_ids(model, length) for length in _LENGTHS]


def _path(
    model: PreTrainedModel,
    prompts: list[list[int]],
    expected: list[Tensor],
    weights: str,
    tolerance: float,
    reason: str,
) -> OwnPath:
    is_divisible = True
    try:
        states = _checked(model, prompts, expected, tolerance, _IN_CHUNKS)
    except ModelUnsupported:
        is_divisible = False
        states = _checked(model, prompts, expected, tolerance, _AT_ONCE)
    shorter, longer = sorted(
        (len(ids), storage_bytes(it.cache)) for ids, it in zip(prompts, states, strict=True)
    )
    can_crop = all(state.can_always_crop for state in states)
    return OwnPath(weights, reason, SequenceBytes.between(shorter, longer), is_divisible, can_crop)


def _checked(
    model: PreTrainedModel,
    prompts: list[list[int]],
    expected: list[Tensor],
    tolerance: float,
    passes: Sequence[tuple[int, int]],
) -> list[SequenceState]:
    """Returns the states after both prompts, whose passes alternate. Raises ModelUnsupported."""
    forward = OwnForward(model)
    sequences = [TokenSequence(str(number), ids) for number, ids in enumerate(prompts)]
    states = [SequenceState() for _ in prompts]
    for counts in passes:
        chunks = [Chunk(*pair) for pair in zip(sequences, counts, strict=True)]
        logits = forward.logits(list(zip(chunks, states, strict=True)))
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.advance(count)
    for own, row in zip(expected, logits.float(), strict=True):
        refuse_difference(own, row, tolerance, "the cache of this architecture")
    return states
