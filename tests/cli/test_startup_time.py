import gc
from collections.abc import Iterator

import pytest

from app.cli import startup_time


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_objects_loaded_at_startup_are_frozen() -> None:
    before, set_aside = gc.get_threshold(), gc.get_freeze_count()
    startup_time.begin()
    assert gc.get_threshold()[0] > before[0]
    startup_time.end()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() > set_aside


def test_objects_of_a_host_program_are_not_frozen() -> None:
    set_aside = gc.get_freeze_count()
    startup_time.end()
    assert gc.get_freeze_count() == set_aside
