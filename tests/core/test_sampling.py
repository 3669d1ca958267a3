"""Every place that holds sampling parameters has those, and the bounds, of app/core/sampling.py."""

from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from app.core.catalogue import CATALOGUE, DEFAULT_SAMPLING, SamplingDefaults
from app.core.config import SettingsError
from app.core.errors import InvalidRequest
from app.core.models_file import with_models_of
from app.core.sampling import BOUNDS, MAX_TOKENS, TEMPERATURE, TOP_P, Bounds
from app.engine.ipc.messages import SamplingParams
from app.engine.sampling.sampler import check_sampling
from app.models.schemas import Parameters, SamplingFields

LISTS_AND_SWITCHES = (
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "bad_words",
    "logit_bias",
)
DEFAULTED = [field.name for field in fields(SamplingDefaults)]


def outside(name: str) -> list[int | float]:
    """Values just beyond either end of the field's range."""
    bounds = BOUNDS[name]
    step = 1 if SamplingFields.model_fields[name].annotation == (int | None) else 0.001
    low = bounds.gt if bounds.ge is None else bounds.ge - step
    assert low is not None
    assert bounds.le is not None
    return [low, bounds.le + step]


@pytest.mark.parametrize(
    ("bounds", "value", "is_inside"),
    [
        (TEMPERATURE, 0, True),
        (TEMPERATURE, 2, True),
        (TEMPERATURE, 2.01, False),
        (TEMPERATURE, float("nan"), False),
        (TEMPERATURE, float("inf"), False),
        (TOP_P, 0, False),
        (TOP_P, 1e-9, True),
        (MAX_TOKENS, 0, False),
    ],
)
def test_bounds_contain_the_values_between_their_ends(bounds: Bounds, value: float, is_inside: bool) -> None:
    assert (value in bounds) == is_inside


@pytest.mark.parametrize("held", [SamplingFields, SamplingParams, Parameters])
def test_all_parameters_are_known_everywhere(held: type) -> None:
    assert set(held.__annotations__) - {"left_to_engine"} == {*BOUNDS, *LISTS_AND_SWITCHES}


def test_catalogue_has_defaults_within_the_bounds() -> None:
    for profile in CATALOGUE.values():
        for defaults in (
            DEFAULT_SAMPLING,
            profile.sampling,
            *(source.sampling for source in profile.sources),
        ):
            for name, value in defaults.given().items() if defaults is not None else ():
                assert value in BOUNDS[name], (profile.name, name)
    assert list(DEFAULT_SAMPLING.given()) == DEFAULTED


@pytest.mark.parametrize("name", BOUNDS)
def test_wire_model_takes_what_is_within_the_bounds(name: str) -> None:
    field = SamplingFields.model_validate({name: BOUNDS[name].le})
    assert getattr(field, name) == BOUNDS[name].le
    for value in outside(name):
        with pytest.raises(ValidationError):
            SamplingFields.model_validate({name: value})


@pytest.mark.parametrize("name", BOUNDS)
def test_engine_takes_what_is_within_the_bounds(name: str) -> None:
    check_sampling(msgspec.structs.replace(SamplingParams(), **{name: BOUNDS[name].le}))
    for value in outside(name):
        with pytest.raises(InvalidRequest, match=name):
            check_sampling(msgspec.structs.replace(SamplingParams(), **{name: value}))


@pytest.mark.parametrize("name", DEFAULTED)
def test_models_file_takes_what_is_within_the_bounds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f"[models.gpt2.sampling]\n{name} = {BOUNDS[name].le}\n", encoding="utf-8")
    assert getattr(with_models_of(path, CATALOGUE)["gpt2"].sampling, name) == BOUNDS[name].le
    for value in outside(name):
        path.write_text(f"[models.gpt2.sampling]\n{name} = {value}\n", encoding="utf-8")
        with pytest.raises(SettingsError, match=name):
            with_models_of(path, CATALOGUE)
