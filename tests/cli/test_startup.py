import gc
from collections.abc import Iterator

import pytest

from app.cli import startup


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_a_start_loads_is_set_aside_and_the_rest_looked_through_as_usual() -> None:
    before, set_aside = gc.get_threshold(), gc.get_freeze_count()
    startup.put_off()
    assert gc.get_threshold()[0] > before[0]
    startup.settle()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() > set_aside


def test_what_another_program_loaded_is_left_to_it() -> None:
    set_aside = gc.get_freeze_count()
    startup.settle()
    assert gc.get_freeze_count() == set_aside
