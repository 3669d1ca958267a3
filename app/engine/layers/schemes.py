"""The registry of schemes: the forms in which linear layers keep their weights, and their tolerances."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.core.literals import Quantization
from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.grouped_layers import grouped_int8_layer, has_fast_grouped_products, int4_layer
from app.engine.layers.int8 import int8_layer
from app.engine.layers.mixtures.products import MakeExperts, int4_experts, int8_experts
from app.engine.layers.packed_linear import MakeLayer, PackedLinear, half_layer, packed_layer

_log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # relative error that another order of float32 sums may cause
ROUNDING_16_BITS = 0.1  # where a model does not have more when its own code rounds
_CPU = frozenset({"cpu"})
_SLOW = "on this processor %s saves memory, but several sequences at once are slower than unquantised"


@dataclass(frozen=True, slots=True)
class Scheme:
    """One form in which weights are kept."""

    name: str  # in reports, and in the settings if it quantises
    make_layer: Callable[[torch.dtype], MakeLayer | None]  # for rows of a dtype; None: not on this processor
    tolerance: float  # greatest relative error of the logits, of models on which rounding has little effect
    devices: frozenset[str]  # types of the devices that have its layers
    make_output_layer: Callable[[torch.dtype], MakeLayer | None] | None = None  # None: like the others
    make_experts: Callable[[torch.dtype], MakeExperts | None] | None = None  # None: they stay as they are
    is_fast: Callable[[], bool] = lambda: True  # whether several sequences are as fast as unquantised ones

    def layer_on(self, device: torch.device, dtype: torch.dtype) -> MakeLayer | None:
        """Returns the scheme's kind of layer for rows of `dtype`; None if this device has none."""
        return self.make_layer(dtype) if device.type in self.devices else None

    def output_layer_on(self, device: torch.device, dtype: torch.dtype) -> MakeLayer | None:
        """Returns the scheme's kind of output layer for rows of `dtype`; None if this device has none."""
        make = self.make_layer if self.make_output_layer is None else self.make_output_layer
        return make(dtype) if device.type in self.devices else None

    def experts_on(self, device: torch.device, dtype: torch.dtype) -> MakeExperts | None:
        """Returns the scheme's kind of experts for rows of `dtype`; None if this device has none."""
        if self.make_experts is None or device.type not in self.devices:
            return None
        return self.make_experts(dtype)

    def warn_if_slow(self) -> None:
        """Log a warning if this processor makes several sequences slower than unquantised ones."""
        if not self.is_fast():
            _log.warning(_SLOW, self.name)


QUANTISED = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", int8_layer, 0.4, _CPU, None, int8_experts, lambda: grouped_product() is not None),
        Scheme("int4", int4_layer, 0.7, _CPU, grouped_int8_layer, int4_experts, has_fast_grouped_products),
    )
}
_HALF_WEIGHTS = Scheme("float16", half_layer, _ROUNDING, _CPU)  # under rows in float32
_AS_COMPUTED = {
    torch.float32: Scheme("float32", packed_layer, _ROUNDING, _CPU),
    torch.bfloat16: Scheme("bfloat16", packed_layer, ROUNDING_16_BITS, _CPU),
    torch.float16: Scheme("float16", packed_layer, ROUNDING_16_BITS, _CPU),
}


def choose_scheme(
    device: torch.device, stored: torch.dtype, dtype: torch.dtype, quantization: Quantization = "none"
) -> tuple[Scheme, MakeLayer | None]:
    """Returns the fastest scheme for computing in `dtype` with weights `stored` in that dtype, and its layer.

    The layer is None if transformers' own layers are the fastest. If the device lacks the requested quantised
    layers, this logs a warning and chooses an unquantised scheme.
    """
    if quantization != "none":
        scheme = QUANTISED[quantization]
        if (layer := scheme.layer_on(device, dtype)) is not None:
            scheme.warn_if_slow()
            return scheme, layer
        _log.warning("this device has no %s layers: the model is served unquantised", quantization)
    if stored.itemsize < dtype.itemsize and (layer := _HALF_WEIGHTS.layer_on(device, dtype)) is not None:
        return _HALF_WEIGHTS, layer
    return _AS_COMPUTED[dtype], _AS_COMPUTED[dtype].layer_on(device, dtype)


def as_computed(dtype: torch.dtype) -> Scheme:
    """Returns the scheme of layers whose weights have the dtype of the computation."""
    return _AS_COMPUTED[dtype]


def has_onednn_products(model: nn.Module) -> bool:
    """Returns whether oneDNN computes products of the model, which it compiles for each number of rows."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Returns the norm of the difference over the norm of the expected logits' deviation from their mean.

    Equal logits have no error, even if all are the same number.
    """
    logits, expected = logits.float(), expected.float()
    difference = (expected - logits).norm()
    return 0.0 if difference == 0 else float(difference / (expected - expected.mean()).norm())
