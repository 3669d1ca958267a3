"""The packages that a machine lacks are found from the requirements and what is there."""

from tests.gpu.wheels import missing_packages, required


def names(pins: list[str]) -> set[str]:
    return {pin.partition("==")[0] for pin in pins}


def test_torch_and_transformers_are_not_brought() -> None:
    found = names(missing_packages())
    assert {"fastapi", "pydantic-settings", "llguidance", "starlette", "pytest"} <= found
    assert not {"torch", "transformers", "numpy"} & found


def test_packages_that_are_there_are_not_brought() -> None:
    everything = names(missing_packages([]))
    assert {"torch", "numpy", "fastapi"} <= everything
    assert "fastapi" not in names(missing_packages(["FastAPI"]))
    assert len(everything) > len(required())
