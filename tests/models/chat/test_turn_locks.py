import pytest

from app.core.errors import ConversationBusy
from app.models.chat.turn_locks import TurnLocks


def test_hold_keeps_another_turn_out_of_the_same_conversation() -> None:
    locks = TurnLocks()
    with locks.hold("conv_1"):
        with pytest.raises(ConversationBusy), locks.hold("conv_1"):
            pass
        with locks.hold("conv_2"):
            assert locks.held == {"conv_1", "conv_2"}
        assert locks.held == {"conv_1"}


def test_hold_ends_with_a_turn_that_fails() -> None:
    locks = TurnLocks()
    with pytest.raises(ZeroDivisionError), locks.hold("conv_1"):
        raise ZeroDivisionError
    assert not locks.held
