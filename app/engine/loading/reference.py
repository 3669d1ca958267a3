"""Computes the logits that checks at load compare with: those of the model's own pass without a cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.core.errors import DomainError, ModelCorrupt, ModelUnsupported
from app.engine import memory
from app.engine.layers.schemes import relative_error
from app.engine.loading.folder_check import AGAIN
from app.engine.own_cache.state_space import unlimited_time_steps

OTHERS = "Choose a model of another architecture: Llama, Qwen, Mistral, Gemma, GPT-2 and others work."
LENGTHS = (13, 9)  # tokens of the prompts
_BEYOND_ROUNDING = 0.05  # relative error


@dataclass(frozen=True, slots=True)
class Reference:
    """Short prompts, and the model's own logits after the last token of each."""

    prompts: list[list[int]]
    logits: list[Tensor]

    def refuse_other(self, logits: Sequence[Tensor], tolerance: float, path: str) -> None:
        """Raises ModelUnsupported if the logits differ by more than rounding. `path` computed them."""
        for expected, row in zip(self.logits, logits, strict=True):
            difference = relative_error(row, expected)
            if not difference <= tolerance:  # also refuses NaN
                raise ModelUnsupported(
                    f"{path} gives other logits than the model without a cache "
                    f"(relative error {difference:.2g})",
                    hint=OTHERS,
                )


def compute_reference(model: PreTrainedModel, dtype: torch.dtype) -> Reference:
    """Returns what the model computes in `dtype` by its own attention without a cache.

    Raises ModelUnsupported if it fails. Raises that or ModelCorrupt if the logits, or the weights in `dtype`,
    are not finite numbers.
    """
    with failures_as_unsupported(model), computing_in(dtype, model), unlimited_time_steps(model):
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
            model.set_attn_implementation("eager")  # sdpa, the default of some versions, omits the soft cap
        prompts = [_some_ids(model, length) for length in LENGTHS]
        return Reference(prompts, _own_logits(model, prompts, dtype))


@contextmanager
def failures_as_unsupported(model: PreTrainedModel) -> Iterator[None]:
    """Raises ModelUnsupported for an error of the library's code, unless the memory has run out."""
    try:
        yield
    except DomainError:
        raise
    except Exception as error:  # any code of any architecture runs here
        if memory.is_exhaustion(error):
            raise
        raise ModelUnsupported(
            f"{type(model).__name__} fails in a trial pass: {type(error).__name__}: {error}", hint=OTHERS
        ) from error


def _some_ids(model: PreTrainedModel, length: int) -> list[int]:
    """Returns token ids of a short prompt, the same at every call."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    return [(7 + 31 * i * i) % vocabulary for i in range(length)]


@torch.inference_mode()
def _own_logits(model: PreTrainedModel, prompts: list[list[int]], dtype: torch.dtype) -> list[Tensor]:
    longest = max(len(ids) for ids in prompts)
    # No token attends to later ones, so any id may fill the shorter rows.
    rows = torch.tensor([ids + ids[:1] * (longest - len(ids)) for ids in prompts], device=model.device)
    logits: Tensor = model(input_ids=rows, use_cache=False).logits
    last = [own[len(ids) - 1].float() for own, ids in zip(logits, prompts, strict=True)]
    _refuse_infinite(model, last, dtype)
    return last


@torch.inference_mode()
def refuse_lookahead(model: PreTrainedModel, reference: Reference) -> None:
    """Raises ModelUnsupported if the logits after a token change with later ones, which no cache can do."""
    ids, length = reference.prompts[0], LENGTHS[1]
    with failures_as_unsupported(model):
        rows = [torch.tensor([each], device=model.device) for each in (ids, ids[:length])]
        logits = [model(input_ids=row, use_cache=False).logits[0, length - 1] for row in rows]
    if relative_error(*logits) > _BEYOND_ROUNDING:
        raise ModelUnsupported(
            f"{type(model).__name__} reads a whole text at once: its logits after a token depend on later "
            "tokens, so it cannot write one after the other",
            hint=OTHERS,
        )


@contextmanager
def computing_in(dtype: torch.dtype, model: PreTrainedModel) -> Iterator[None]:
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
        for values, narrow in stored.items():  # of modules that failed
            values.data = narrow


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
