"""Checks at load that a model computes the right logits with its own cache, and how it may be used.

Some architectures ignore their cache in a pass over several ids. They get single ids after the first pass.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.core.errors import ModelUnsupported
from app.core.literals import Quantization
from app.engine.kv.sequence_bytes import SequenceBytes
from app.engine.layers.prepare import convert_layers
from app.engine.layers.schemes import Scheme, as_computed, relative_error
from app.engine.loading.load import ReportStage
from app.engine.loading.reference import (
    Reference,
    compute_reference,
    failures_as_unsupported,
    measure_rounding,
    refuse_lookahead,
)
from app.engine.loading.widened_pass import computing_in
from app.engine.own_cache.joint_layers import joining_of
from app.engine.own_cache.passes import Joining
from app.engine.own_cache.runner import CachePlace, OwnForward, PassOptions
from app.engine.own_cache.sequence_state import SequenceState, cache_argument, storage_bytes
from app.engine.own_cache.state_space import unlimited_time_steps
from app.engine.scheduling.sequence import Chunk, TokenSequence

_log = logging.getLogger(__name__)

_PREFIX, _REST = 5, 8  # tokens of the reference's first prompt
_SINGLE = ((_PREFIX,), *[(1,)] * _REST)
_ROUNDING_32_BITS, _ROUNDING_16_BITS = 0.001, 0.02  # relative errors; without its cache a pass has more
_ROUNDING_SPREAD = 3  # times, by which one rounding may differ from another
_IN_CHUNKS = ((8, 4), (2, 2), (1, 1), (1, 1), (1, 1))  # tokens of each sequence in each pass
_POSSIBLE = (  # the fastest first
    PassOptions(),
    PassOptions(gives_positions=True),
    PassOptions(place=CachePlace.MODULES),
    PassOptions(place=CachePlace.NOWHERE),
)
_AT_ONCE = ((10, 6), (1, 1), (1, 1), (1, 1))


@dataclass(frozen=True, slots=True)
class OwnPath:
    """The facts that the check has found about a model."""

    weights: str  # name of the linear layers' scheme
    reason: str  # why the model is not packed
    sequence_bytes: SequenceBytes
    is_divisible: bool  # whether prompts may be read in chunks
    can_crop: bool  # whether a cache can be shortened to any length
    options: PassOptions


def check_converted(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization,
    reason: str,
    reference: Reference,
    report: ReportStage = lambda stage, fraction: None,
    options: PassOptions | None = None,
) -> OwnPath:
    """Converts the model's linear layers, to compute in `dtype`, and checks its logits.

    `options` are those that `working_options` found; if not given, they are looked for here.

    Raises ModelUnsupported if the logits differ from those without a cache.
    """
    with failures_as_unsupported(model):
        report("pack", 0.0)
        scheme = convert_layers(
            model, dtype, quantization, lambda fraction: report("pack", fraction), fuses=False
        )
        report("pack", 1.0)
        options = options or _first_right(model, reference, scheme.tolerance)
        return _path(model, dtype, reference, scheme, reason, options)


def working_options(model: PreTrainedModel, dtype: torch.dtype, reference: Reference) -> PassOptions:
    """Returns how passes give the right logits with the layers as they are.

    Raises ModelUnsupported if none do.
    """
    with computing_in(dtype, model):
        return _first_right(model, reference, as_computed(dtype).tolerance)


def check_unchanged(model: PreTrainedModel, reason: str) -> OwnPath:
    """Checks the logits of the model as it is. Raises what `check_converted` raises."""
    dtype, scheme = model.dtype, as_computed(model.dtype)
    reference = measure_rounding(model, dtype, compute_reference(model, dtype))
    with failures_as_unsupported(model):
        options = _first_right(model, reference, scheme.tolerance)
        return _path(model, dtype, reference, scheme, reason, options)


def _first_right(model: PreTrainedModel, reference: Reference, tolerance: float) -> PassOptions:
    """Returns the first options with which passes over lonely sequences give the expected logits.

    Raises ModelUnsupported if all fail, with the reason why the usual ones do.
    """
    failures: list[ModelUnsupported] = []
    for options in _POSSIBLE if cache_argument(model) else _POSSIBLE[-1:]:
        try:
            with failures_as_unsupported(model):
                logits = _read(model, reference.prompts, _AT_ONCE, options)[1]
            _refuse_wrong(logits, reference, tolerance)
            if failures and options.place is CachePlace.NOWHERE:
                _log.warning("each token computes all earlier ones again: %s", failures[0].message)
            return options
        except ModelUnsupported as error:
            failures.append(error)
    refuse_lookahead(model, reference)
    raise failures[0]


def _refuse_wrong(logits: list[Tensor], reference: Reference, tolerance: float) -> None:
    """Raises ModelUnsupported if the logits differ by more than the many steps of a recurrence round them."""
    reference.refuse_other(logits, max(tolerance, _ROUNDING_32_BITS), "the cache of this architecture")


def _path(
    model: PreTrainedModel,
    dtype: torch.dtype,
    reference: Reference,
    scheme: Scheme,
    reason: str,
    plain: PassOptions,
) -> OwnPath:
    prompts = reference.prompts
    single = _read(model, prompts[:1], _SINGLE, plain)[1][0]
    rounding = _rounding(model, dtype, prompts[0], single, plain)
    is_divisible = _is_divisible(model, prompts[0], single, rounding, plain)
    passes = _IN_CHUNKS if is_divisible else _AT_ONCE
    states, logits = _read(model, prompts, passes, plain)
    _refuse_wrong(logits, reference, scheme.tolerance)
    shorter, longer = sorted(
        (len(ids), storage_bytes(it.cache)) for ids, it in zip(prompts, states, strict=True)
    )
    return OwnPath(
        scheme.name,
        reason,
        SequenceBytes.between(shorter, longer),
        is_divisible,
        can_crop=plain.place is CachePlace.NOWHERE or all(state.can_always_crop for state in states),
        options=_options(model, prompts, passes, plain, joining_of(states[0]), logits, rounding),
    )


def _rounding(
    model: PreTrainedModel, dtype: torch.dtype, ids: list[int], single: Tensor, options: PassOptions
) -> float:
    """Returns the relative error that rounding may cause between passes that should give the same logits.

    It is measured: one pass over all ids differs from single ids by nothing else.
    """
    whole = _read(model, [ids], ((len(ids),),), options)[1][0]
    least = _ROUNDING_32_BITS if dtype == torch.float32 else _ROUNDING_16_BITS
    return max(least, _ROUNDING_SPREAD * relative_error(whole, single))


def _is_divisible(
    model: PreTrainedModel, ids: list[int], single: Tensor, rounding: float, options: PassOptions
) -> bool:
    """Returns whether a pass over several ids uses the cache: whether single ids give the same logits."""
    if options.place is CachePlace.NOWHERE:
        return False  # each of its chunks would compute all earlier ids again
    try:
        with failures_as_unsupported(model):
            chunk = _read(model, [ids], ((_PREFIX,), (_REST,)), options)[1][0]
    except ModelUnsupported:
        return False
    return relative_error(chunk, single) <= rounding


def _options(
    model: PreTrainedModel,
    prompts: list[list[int]],
    passes: Sequence[tuple[int, ...]],
    plain: PassOptions,
    joining: Joining,
    alone: list[Tensor],
    rounding: float,
) -> PassOptions:
    """Returns the options with the most joint passes that give the logits of lonely ones, `alone`."""
    attends_in_chunks = getattr(model.config.get_text_config(), "attention_chunk_size", None) is not None
    if joining is Joining.NEVER or attends_in_chunks:  # padding would move the limits of the chunks
        return plain
    decoding = replace(plain, joining=joining)
    for options in (replace(decoding, joins_prompts=True), decoding):
        try:
            with failures_as_unsupported(model):
                joint = _read(model, prompts, passes, options)[1]
        except ModelUnsupported:
            continue
        if all(relative_error(*pair) <= rounding for pair in zip(joint, alone, strict=True)):
            return options
    return plain


def _read(
    model: PreTrainedModel,
    prompts: list[list[int]],
    passes: Sequence[tuple[int, ...]],
    options: PassOptions,
) -> tuple[list[SequenceState], list[Tensor]]:
    """Returns the states and the last logits of the prompts. Each pass has so many ids of each of them.

    Passes are joint if `options` allow it, apart from the last but one.
    """
    sequences = [TokenSequence(str(number), ids) for number, ids in enumerate(prompts)]
    states = [SequenceState() for _ in prompts]
    for number, counts in enumerate(passes):
        is_lonely = number == len(passes) - 2
        forward = OwnForward(model, replace(options, joining=Joining.NEVER) if is_lonely else options)
        chunks = [Chunk(*pair) for pair in zip(sequences, counts, strict=True)]
        with unlimited_time_steps(model):
            logits = forward.logits(list(zip(chunks, states, strict=True)))
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.advance(count)
    return states, list(logits.float())
