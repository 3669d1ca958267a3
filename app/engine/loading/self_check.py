"""Checks at load that a model computes the right logits on the packed path, and refuses it if it does not.

Without this check, an architecture whose attention bypasses transformers' interface would give wrong replies.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.core.errors import ModelCorrupt, ModelRefused, ModelUnsupported
from app.core.literals import Quantization
from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.pool import KVPool
from app.engine.kv.slot import KVAllocator, PerSlotAllocator, Slot
from app.engine.layers.calibration import record
from app.engine.layers.prepare import prepare
from app.engine.layers.schemes import relative_error
from app.engine.loading.folder_check import AGAIN
from app.engine.loading.load import ReportStage
from app.engine.scheduling.sequence import Chunk, TokenSequence

_log = logging.getLogger(__name__)

_LENGTHS = (13, 9)  # tokens of two sequences that share every pass
# Tokens of each sequence in each pass: two chunks, then decodes.
_PASSES = ((5, 4), (5, 2), (1, 1), (1, 1), (1, 1))
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_OTHERS = "Choose a model of another architecture: Llama, Qwen, Mistral, Gemma, GPT-2 and others work."


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
    calibration_ids: Sequence[int] = (),
) -> PackedPath:
    """Converts the model to the packed path, to compute in `dtype` (None: as before), and checks its logits.

    With a `pool` it also tries the decode path for CUDA graphs, which a model may lack. `calibration_ids` are
    the tokens of a short text, by which each layer's form is chosen if the quantisation has several.

    Raises ModelUnsupported if a layer does not attend through the packed function, or if the logits of two
    sequences in mixed passes differ from those of the model's own path.
    """
    _refuse_layer_types(model)
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # sdpa, the default of some versions, omits the soft cap
    dtype = model.dtype if dtype is None else dtype
    prompts = [_some_ids(model, length) for length in _LENGTHS]
    with _computing_in(dtype, model):
        expected = _own_logits(model, prompts)
        _refuse_infinite(model, expected, dtype)
        is_judged = quantization == "int8" and len(calibration_ids) > 0
        calibration = record(model, calibration_ids) if is_judged else None
    report("pack", 0.0)
    scheme = prepare(model, dtype, quantization, lambda fraction: report("pack", fraction), calibration)
    report("pack", 1.0)
    report("check", 0.5)  # the model's own path is computed; the packed one is not
    bytes_per_token = _check_packed_logits(model, prompts, expected, scheme.tolerance)
    supports_cuda_graphs = pool is not None and _supports_cuda_graphs(
        model, pool, prompts, expected, scheme.tolerance
    )
    return PackedPath(scheme.name, bytes_per_token, supports_cuda_graphs)


def _check_packed_logits(
    model: PreTrainedModel, prompts: list[list[int]], expected: list[Tensor], tolerance: float
) -> int:
    """Returns the bytes per token of keys and values. Raises what `check_packed_path` raises."""
    sequences = _sequences(prompts, PerSlotAllocator())
    logits = _packed_logits(ModelRunner(model), sequences)
    for sequence, own, packed in zip(sequences, expected, logits, strict=True):
        _refuse_missing_layers(model, sequence.slot)
        _refuse_difference(own, packed, tolerance)
    slot = sequences[0].slot
    return slot.nbytes() // slot.capacity


def _sequences(prompts: list[list[int]], store: KVAllocator) -> list[TokenSequence]:
    return [TokenSequence(str(i), ids, slot=store.new(len(ids))) for i, ids in enumerate(prompts)]


def _supports_cuda_graphs(
    model: PreTrainedModel, pool: KVPool, prompts: list[list[int]], expected: list[Tensor], tolerance: float
) -> bool:
    """Returns whether the decode path passes the check. If not, the packed path alone serves the model."""
    runner = ModelRunner(model, pool=pool)
    try:
        for each in (ModelRunner(model, pool=pool, captures=False), runner):
            sequences = _sequences(prompts, pool)
            for own, packed in zip(expected, _packed_logits(each, sequences), strict=True):
                _refuse_difference(own, packed, tolerance)
            for sequence in sequences:
                pool.drop(sequence.slot)
        return runner.supports_cuda_graphs
    except (ModelUnsupported, RuntimeError):  # torch's own errors are RuntimeErrors
        _log.warning("this model is served without CUDA graphs", exc_info=True)
        return False
    finally:
        runner.recover()


def _some_ids(model: PreTrainedModel, length: int) -> list[int]:
    vocabulary = int(model.config.get_text_config().vocab_size)
    return [(7 + 31 * i * i) % vocabulary for i in range(length)]


@torch.inference_mode()
def _own_logits(model: PreTrainedModel, prompts: list[list[int]]) -> list[Tensor]:
    """Returns the logits after each prompt's last token, by the model's own attention without a cache."""
    longest = max(len(ids) for ids in prompts)
    # No token attends to later ones, so any id may fill the shorter rows.
    rows = torch.tensor([ids + ids[:1] * (longest - len(ids)) for ids in prompts], device=model.device)
    logits: Tensor = model(input_ids=rows, use_cache=False).logits
    return [own[len(ids) - 1].float() for own, ids in zip(logits, prompts, strict=True)]


@contextmanager
def _computing_in(dtype: torch.dtype, model: PreTrainedModel) -> Iterator[None]:
    """Converts each module's own weights to `dtype` only while it runs, to save memory."""
    stored: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, _: Any) -> None:  # of any arguments
        for values in module.parameters(recurse=False):
            if values.is_floating_point() and values.element_size() < dtype.itemsize:
                stored[values] = values.data
                values.data = values.data.to(dtype)

    def restore(module: nn.Module, *_: Any) -> None:  # of any arguments and output
        for values in module.parameters(recurse=False):
            if values in stored:
                values.data = stored.pop(values)

    hooks = [module.register_forward_pre_hook(widen) for module in model.modules()]
    hooks += [module.register_forward_hook(restore) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _packed_logits(runner: ModelRunner, sequences: list[TokenSequence]) -> list[Tensor]:
    """Returns the logits after each sequence's last token, computed in the mixed passes of `_PASSES`."""
    for counts in _PASSES:
        try:
            logits = runner.forward([Chunk(*pair) for pair in zip(sequences, counts, strict=True)])
        except ModelRefused as error:
            raise ModelUnsupported(error.message, hint=_OTHERS) from error
        except TypeError as error:
            raise ModelUnsupported(
                f"this architecture does not take packed sequences: {error}", hint=_OTHERS
            ) from error
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.advance(count)
    return list(logits.float())


def _refuse_infinite(model: PreTrainedModel, logits: list[Tensor], dtype: torch.dtype) -> None:
    """Refuses a model one of whose weights or logits is not a finite number in `dtype`.

    Raises ModelUnsupported if the reason is float16, whose largest number is small, otherwise ModelCorrupt.
    """
    is_half = dtype == torch.float16
    weights = [weight for weight in model.parameters() if weight.is_floating_point()] if is_half else []
    if all(torch.isfinite(values).all() for values in (*logits, *weights)):
        return
    if is_half:
        raise ModelUnsupported(
            "this model has numbers larger than float16 holds (65,504)",
            hint="Set LLM_DTYPE=bfloat16 or LLM_DTYPE=float32.",
        )
    raise ModelCorrupt("the model's logits are not finite numbers: its weights are damaged", hint=AGAIN)


def _refuse_layer_types(model: PreTrainedModel) -> None:
    if model.config.get_text_config().num_hidden_layers < 1:
        raise ModelUnsupported("config.json describes a model without layers")
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - _LAYER_TYPES:
        raise ModelUnsupported(
            f"this architecture has layers that the engine does not compute: {sorted(unknown)}", hint=_OTHERS
        )


def _refuse_missing_layers(model: PreTrainedModel, slot: Slot) -> None:
    layers = model.config.get_text_config().num_hidden_layers
    if sorted(slot.layers) != list(range(layers)):
        raise ModelUnsupported(
            f"{type(model).__name__} has layers that do not use transformers' attention interface",
            hint=_OTHERS,
        )


def _refuse_difference(own: Tensor, packed: Tensor, tolerance: float) -> None:
    difference = relative_error(packed, own)
    if not difference <= tolerance:  # also refuses NaN
        raise ModelUnsupported(
            f"packed attention gives other logits than the model's own (relative error {difference:.2g})",
            hint=_OTHERS,
        )
