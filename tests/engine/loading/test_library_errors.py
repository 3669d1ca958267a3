"""Errors of libraries that read a model's files."""

import pytest

from app.core.errors import ModelCorrupt
from app.engine.loading.folder_check import library_errors_as


def test_error_of_a_library_is_described() -> None:
    with (
        pytest.raises(ModelCorrupt, match="cannot be read: bad header"),
        library_errors_as(lambda error: ModelCorrupt(f"cannot be read: {error}")),
    ):
        raise Exception("bad header")


@pytest.mark.parametrize(
    "error",
    [MemoryError("full"), RuntimeError("can't start new thread"), Exception("Cannot allocate memory")],
)
def test_lack_of_memory_is_no_fault_of_the_files(error: Exception) -> None:
    with (
        pytest.raises(type(error), match=str(error)),
        library_errors_as(lambda error: ModelCorrupt(f"cannot be read: {error}")),
    ):
        raise error
