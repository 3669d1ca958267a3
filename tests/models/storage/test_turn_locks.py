import asyncio

import pytest

from app.core.errors import ConversationBusy
from app.models.storage.turn_locks import LocalTurnLocks


def test_hold_keeps_another_turn_out_of_the_same_conversation() -> None:
    async def scenario() -> None:
        locks = LocalTurnLocks()
        async with locks.hold("conv_1"):
            with pytest.raises(ConversationBusy):
                async with locks.hold("conv_1"):
                    pass
            async with locks.hold("conv_2"):
                assert locks.held == {"conv_1", "conv_2"}
            assert locks.held == {"conv_1"}

    asyncio.run(scenario())


def test_hold_ends_with_a_turn_that_fails() -> None:
    async def scenario() -> None:
        locks = LocalTurnLocks()
        with pytest.raises(ZeroDivisionError):
            async with locks.hold("conv_1"):
                raise ZeroDivisionError
        assert not locks.held

    asyncio.run(scenario())
