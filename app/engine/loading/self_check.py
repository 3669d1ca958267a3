"""Checks at load that a model computes the right logits on the packed path, and refuses it if it does not.

Without this check, an architecture whose attention bypasses transformers' interface would give wrong replies.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.core.errors import ModelRefused, ModelUnsupported
from app.core.literals import Quantization
from app.engine.device import free_unused_memory
from app.engine.execution.attention import interface as attention
from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.pool import KVPool
from app.engine.kv.slot import KVAllocator, PerSlotAllocator, Slot
from app.engine.layers.prepare import prepare
from app.engine.loading.load import ReportStage
from app.engine.loading.reference import (
    LENGTHS,
    OTHERS,
    Reference,
    compute_reference,
    failures_as_unsupported,
    refuse_other_path,
)
from app.engine.scheduling.sequence import Chunk, TokenSequence

_log = logging.getLogger(__name__)

# Tokens of each of two sequences in each pass: two chunks, then decodes.
_PASSES = ((5, 4), (5, 2), (1, 1), (1, 1), (1, 1))
_PATH = "packed attention"
_LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class PackedPath:
    """The facts that the check has found about a model."""

    weights: str  # name of the linear layers' scheme
    bytes_per_token: int  # of keys and values
    supports_cuda_graphs: bool  # whether the decode path computes the right logits, too


def check_packed_path(
    model: PreTrainedModel,
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
    report: ReportStage = lambda stage, fraction: None,
    pool: KVPool | None = None,
    reference: Reference | None = None,
) -> PackedPath:
    """Converts the model to the packed path, to compute in `dtype` (None: as before), and checks its logits.

    With a `pool` it also tries the decode path for CUDA graphs, which a model may lack. The `reference` is
    what `check_unconverted` returned, which is called if it is not given.

    Raises ModelUnsupported if a layer does not attend through the packed function, or if the logits of two
    sequences in mixed passes differ from those of the model's own path.
    """
    dtype = dtype or model.dtype
    expected = reference or check_unconverted(model, dtype, compute_reference(model, dtype))
    with failures_as_unsupported(model):
        return _converted_and_checked(model, dtype, quantization, report, pool, expected)


def check_unconverted(model: PreTrainedModel, dtype: torch.dtype, reference: Reference) -> Reference:
    """Returns the reference, with its rounding if that had to be measured. It does not change the model.

    Raises ModelUnsupported if the packed path cannot compute the architecture.
    """
    with failures_as_unsupported(model):
        refuse_layer_types(model)
        return refuse_other_path(
            model, dtype, reference, _PATH, lambda: _unconverted_logits(model, reference)
        )


def _unconverted_logits(model: PreTrainedModel, reference: Reference) -> list[Tensor]:
    """Returns the logits by packed attention with the layers as they were loaded."""
    own = model.config._attn_implementation
    sequences = _sequences(reference.prompts, PerSlotAllocator())
    attention.register()
    model.set_attn_implementation(attention.NAME)
    try:
        logits = _packed_logits(ModelRunner(model), sequences, [LENGTHS])
    finally:
        model.set_attn_implementation(own)
    for sequence in sequences:
        _refuse_missing_layers(model, sequence.slot)
    return logits


def _converted_and_checked(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization,
    report: ReportStage,
    pool: KVPool | None,
    reference: Reference,
) -> PackedPath:
    report("pack", 0.0)
    scheme = prepare(model, dtype, quantization, lambda fraction: report("pack", fraction))
    report("pack", 1.0)
    report("check", 0.5)  # the model's own path is computed; the packed one is not
    bytes_per_token = _check_packed_logits(model, reference, scheme.tolerance)
    supports_cuda_graphs = pool is not None and _supports_cuda_graphs(
        model, pool, reference, scheme.tolerance
    )
    return PackedPath(scheme.name, bytes_per_token, supports_cuda_graphs)


def _check_packed_logits(model: PreTrainedModel, reference: Reference, tolerance: float) -> int:
    """Returns the bytes per token of keys and values. Raises what `check_packed_path` raises."""
    sequences = _sequences(reference.prompts, PerSlotAllocator())
    logits = _packed_logits(ModelRunner(model), sequences)
    for sequence in sequences:
        _refuse_missing_layers(model, sequence.slot)
    reference.refuse_other(logits, tolerance, _PATH)
    slot = sequences[0].slot
    return slot.nbytes() // slot.capacity


def _sequences(prompts: list[list[int]], store: KVAllocator) -> list[TokenSequence]:
    return [TokenSequence(str(i), ids, slot=store.new(len(ids))) for i, ids in enumerate(prompts)]


def _supports_cuda_graphs(
    model: PreTrainedModel, pool: KVPool, reference: Reference, tolerance: float
) -> bool:
    """Returns whether the decode path passes the check. If not, the packed path alone serves the model."""
    runner = ModelRunner(model, pool=pool)
    try:
        for each in (ModelRunner(model, pool=pool, captures=False), runner):
            sequences = _sequences(reference.prompts, pool)
            reference.refuse_other(_packed_logits(each, sequences), tolerance, _PATH)
            for sequence in sequences:
                pool.drop(sequence.slot)
        return runner.supports_cuda_graphs
    except Exception:  # those of Triton and its compilers have no class in common
        _log.warning("this model is served without CUDA graphs", exc_info=True)
        return False
    finally:
        runner.recover()
        free_unused_memory(runner.device)


def _packed_logits(
    runner: ModelRunner, sequences: list[TokenSequence], passes: Sequence[tuple[int, ...]] = _PASSES
) -> list[Tensor]:
    """Returns the logits after each sequence's last token. Each pass has so many tokens of each of them."""
    for counts in passes:
        try:
            logits = runner.forward([Chunk(*pair) for pair in zip(sequences, counts, strict=True)])
        except ModelRefused as error:
            raise ModelUnsupported(error.message, hint=OTHERS) from error
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.advance(count)
    return list(logits.float())


def refuse_layer_types(model: PreTrainedModel) -> None:
    """Raises ModelUnsupported if its configuration alone says that the packed path cannot compute it."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - _LAYER_TYPES:
        raise ModelUnsupported(
            f"this architecture has layers that cannot be packed: {', '.join(sorted(unknown))}", hint=OTHERS
        )


def _refuse_missing_layers(model: PreTrainedModel, slot: Slot) -> None:
    layers = model.config.get_text_config().num_hidden_layers
    if sorted(slot.layers) != list(range(layers)):
        raise ModelUnsupported(
            f"{type(model).__name__} has layers that do not use transformers' attention interface",
            hint=OTHERS,
        )
