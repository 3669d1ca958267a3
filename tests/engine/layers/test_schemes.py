"""Every quantisation of the settings has a scheme, and a device without its layers is served unquantised."""

import logging
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from app.core.literals import Quantization
from app.engine.layers.compiled.linear import CompiledLinear
from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.int8 import WeightInt8Linear
from app.engine.layers.packed_linear import HalfLinear, PackedLinear, computes_in_bfloat16, half_layer
from app.engine.layers.schemes import QUANTISED, choose_scheme, relative_error

CPU = torch.device("cpu")


def test_equal_logits_have_no_error_even_if_they_are_all_the_same() -> None:
    assert relative_error(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert relative_error(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])) > 1
    assert math.isnan(relative_error(torch.full((3,), math.nan), torch.tensor([1.0, 2.0, 3.0])))


def test_every_quantisation_of_the_settings_has_a_scheme() -> None:
    assert {"none", *QUANTISED} == set(get_args(Quantization))
    assert all(0 < scheme.tolerance < 1 for scheme in QUANTISED.values())


@pytest.mark.parametrize(
    ("stored", "dtype", "quantization", "name", "kinds"),
    [
        (torch.float32, torch.float32, "none", "float32", (PackedLinear,)),
        (torch.bfloat16, torch.float32, "int8", "int8", (CompiledLinear, WeightInt8Linear)),
        pytest.param(
            torch.bfloat16,
            torch.float32,
            "none",
            "float16",
            (HalfLinear,),
            marks=pytest.mark.skipif(half_layer(torch.float32) is None, reason="torch has no FBGEMM here"),
        ),
        pytest.param(
            torch.bfloat16,
            torch.bfloat16,
            "none",
            "bfloat16",
            (PackedLinear,),
            marks=pytest.mark.skipif(not computes_in_bfloat16(), reason="no products in bfloat16 here"),
        ),
    ],
)
def test_scheme_is_chosen_by_what_the_processor_computes(
    stored: torch.dtype,
    dtype: torch.dtype,
    quantization: Quantization,
    name: str,
    kinds: tuple[type[torch.nn.Module], ...],
) -> None:
    scheme, make_layer = choose_scheme(CPU, stored, dtype, quantization)
    assert scheme.name == name
    assert make_layer is not None
    assert isinstance(make_layer(torch.ones(8, 8), None), kinds)


def test_scheme_is_unquantised_where_the_device_has_no_such_layers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        scheme, make_layer = choose_scheme(torch.device("meta"), torch.float32, torch.float32, "int8")
    assert (scheme.name, make_layer) == ("float32", None)
    assert scheme.tolerance < QUANTISED["int8"].tolerance
    assert "unquantised" in caplog.text


@pytest.mark.parametrize("is_fast", [True, False])
def test_scheme_says_where_it_does_not_pay(is_fast: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        replace(QUANTISED["int8"], is_fast=lambda: is_fast).warn_if_slow()
    assert ("slower than unquantised" in caplog.text) is not is_fast


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_load_says_where_a_form_of_the_weights_does_not_pay(
    name: Quantization, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        scheme, _ = choose_scheme(CPU, torch.float32, torch.float32, name)
    assert scheme is QUANTISED[name]
    assert ("slower than unquantised" in caplog.text) is not scheme.is_fast()


def test_forms_pay_where_the_product_is_compiled() -> None:
    is_compiled = grouped_product() is not None
    assert QUANTISED["int8"].is_fast() is is_compiled
    assert QUANTISED["int4"].is_fast() is (is_compiled or torch.backends.cpu.get_cpu_capability() == "AVX512")


def test_relative_error_is_a_share_of_the_logits_spread() -> None:
    logits = torch.randn(100)
    assert relative_error(logits, logits) == 0
    assert relative_error(logits.flip(0), logits) > 1
    assert relative_error(logits + 0.1, logits) == pytest.approx(
        relative_error(logits + 9.1, logits + 9), 0.01
    )
