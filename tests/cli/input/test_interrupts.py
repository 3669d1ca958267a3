"""Ctrl-C cancels the running work, and has no effect between two runs."""

import asyncio
import os
import signal

import pytest

from app.cli.input.interrupts import Interrupted, Interrupts


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_cancels_the_running_work() -> None:
    async def go() -> None:
        asyncio.get_running_loop().call_soon(press_ctrl_c)
        with pytest.raises(Interrupted):
            await Interrupts().run(asyncio.Event().wait())

    asyncio.run(go())


def test_ctrl_c_between_two_runs_has_no_effect() -> None:
    async def go() -> list[int]:
        interrupts, done = Interrupts(), []

        async def work(number: int) -> None:
            done.append(number)

        with interrupts.on_ctrl_c():
            for number in range(3):
                await interrupts.run(work(number))
                press_ctrl_c()
                await asyncio.sleep(0)
        return done

    assert asyncio.run(go()) == [0, 1, 2]


def test_ctrl_c_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGINT)

    async def go() -> object:
        own = signal.getsignal(signal.SIGINT)
        with Interrupts().on_ctrl_c():
            assert signal.getsignal(signal.SIGINT) is not own
        return own is signal.getsignal(signal.SIGINT)

    assert asyncio.run(go())
    assert signal.getsignal(signal.SIGINT) is before
