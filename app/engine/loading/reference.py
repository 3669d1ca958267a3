"""Computes the reference logits of the checks at load, with the model's own pass without a cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.core.errors import DomainError, ModelCorrupt, ModelUnsupported
from app.engine import memory
from app.engine.layers.schemes import as_computed, relative_error
from app.engine.loading.folder_check import AGAIN
from app.engine.loading.widened_pass import computing_in
from app.engine.own_cache.state_space import unlimited_time_steps

OTHERS = "Choose a model of another architecture: Llama, Qwen, Mistral, Gemma, GPT-2 and others work."
LENGTHS = (13, 9)  # tokens of the prompts
_BEYOND_ROUNDING = 0.05  # relative error
_SURELY_ROUNDING = 0.03  # relative error in 16 bits; ordinary models have 0.01 to 0.04, SmolLM2 0.06 to 0.12
# Times by which one rounding may differ from another. In 34 pairs of prompts of SmolLM2 it was up to 3.4.
_ROUNDING_SPREAD = 5


@dataclass(frozen=True, slots=True)
class Reference:
    """Short prompts, and the model's own logits after the last token of each.

    `rounding` is their relative error by the dtype's rounding alone, where that was measured.
    """

    prompts: list[list[int]]
    logits: list[Tensor]
    rounding: float = 0.0

    def errors(self, logits: Sequence[Tensor]) -> list[float]:
        """Returns the relative error of each row of logits."""
        return [relative_error(*pair) for pair in zip(logits, self.logits, strict=True)]

    def refuse_other(self, logits: Sequence[Tensor], tolerance: float, path: str) -> None:
        """Raises ModelUnsupported if the logits differ by more than rounding. `path` computed them.

        The `tolerance` is raised for models on which rounding has more effect.
        """
        for difference in self.errors(logits):
            if not difference <= max(tolerance, _ROUNDING_SPREAD * self.rounding):  # also refuses NaN
                raise ModelUnsupported(
                    f"{path} gives other logits than the model without a cache "
                    f"(relative error {difference:.2g})",
                    hint=OTHERS,
                )


def compute_reference(model: PreTrainedModel, dtype: torch.dtype) -> Reference:
    """Returns the reference logits that the model computes in `dtype` with its own attention and no cache.

    Raises ModelUnsupported if it fails. Raises that or ModelCorrupt if the logits, or the weights in `dtype`,
    are not finite numbers.
    """
    with failures_as_unsupported(model), computing_in(dtype, model), unlimited_time_steps(model):
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
            model.set_attn_implementation("eager")  # sdpa, the default of some versions, omits the soft cap
        prompts = [_some_ids(model, length) for length in LENGTHS]
        return Reference(prompts, _own_logits(model, prompts, dtype))


def measure_rounding(model: PreTrainedModel, dtype: torch.dtype, reference: Reference) -> Reference:
    """Returns the reference with its rounding in `dtype`: how far its logits are from those in float32.

    It stays as it is if that was measured before, or if the model's code computes in one dtype only.
    """
    exact = None if reference.rounding else _exact_reference(model, dtype)
    return reference if exact is None else _with_rounding(reference, exact)


def refuse_other_path(
    model: PreTrainedModel,
    dtype: torch.dtype,
    reference: Reference,
    path: str,
    compute: Callable[[], Sequence[Tensor]],
) -> Reference:
    """Returns the reference, with its rounding if that had to be measured.

    `compute` returns the logits of `path` with the layers as they were loaded. Where 16 bits leave a doubt,
    it is called again in float32, in which a wrong computation cannot pass for rounding.

    Raises ModelUnsupported if the logits are not those of the model's own path.
    """
    with computing_in(dtype, model):
        logits = compute()
    is_clear = all(error <= _SURELY_ROUNDING for error in reference.errors(logits))
    exact = None if is_clear else _exact_reference(model, dtype)
    if exact is None:
        reference.refuse_other(logits, as_computed(dtype).tolerance, path)
        return reference
    with computing_in(torch.float32, model):
        exact.refuse_other(compute(), as_computed(torch.float32).tolerance, path)
    return _with_rounding(reference, exact)


def _exact_reference(model: PreTrainedModel, dtype: torch.dtype) -> Reference | None:
    """Returns the reference in float32; None if `dtype` is that, or the model's code takes another only."""
    if dtype.itemsize >= torch.float32.itemsize:
        return None
    try:
        return compute_reference(model, torch.float32)
    except ModelUnsupported:
        return None


def _with_rounding(reference: Reference, exact: Reference) -> Reference:
    return replace(reference, rounding=max(exact.errors(reference.logits)))


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
