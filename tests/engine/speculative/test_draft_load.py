"""A draft model that cannot be loaded does not keep its engine from serving."""

import pytest

from app.core.errors import ModelRefused
from app.engine.speculative.draft_load import CheckedDraft, usable_draft


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelRefused("its vocabulary differs"), "its vocabulary differs"),
        (MemoryError(), "the memory does not suffice"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory does not suffice"),
    ],
)
def test_draft_model_that_cannot_be_loaded_is_not_used(
    caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    def fail() -> CheckedDraft:
        raise error

    assert usable_draft("tiny", fail) is None
    assert f"the draft model tiny is not used: {reason}" in caplog.text


def test_other_errors_of_a_draft_model_are_raised() -> None:
    def fail() -> CheckedDraft:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        usable_draft("tiny", fail)
