"""Key presses are handled at once, also while the client imports modules or shows an answer."""

import asyncio
import io
import re
import subprocess
import sys
import time
from collections.abc import Awaitable
from statistics import median

from app.cli.output.terminal import Terminal, TerminalStyle
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.server import ROOT

LONGEST_S = 0.15  # five times the goal, because other tests may use the machine
USUAL_S = 0.045  # less than the time between two frames: keys do not wait for a frame
KEYS, BETWEEN_KEYS_S = "abcdefgh" * 8, 0.03
WATCHED = """
import asyncio, sys
from app.cli.output.terminal import Terminal, TerminalStyle
from tests.cli.output.test_responsive import longest_gap_s

terminal = Terminal(TerminalStyle(plain=False, color=True, symbols=True))
print(asyncio.run(longest_gap_s(asyncio.to_thread(terminal.preload))))
assert "pygments.lexers.python" in sys.modules
"""

TOKENS, TOKENS_PER_S = 1000, 500
BLOCKS = """
# A heading

Some *words* of a paragraph that is long enough to be broken where the terminal ends, and goes on after it.

| name | value |
|------|-------|
| one  | 1     |
| two  | 2     |

```python
def add(first, second):
    return first + second  # a comment
```

- an item
- another
"""


async def longest_gap_s(work: Awaitable[object]) -> float:
    """The longest time during `work` in which the event loop could not handle a key."""
    task = asyncio.ensure_future(work)
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


def test_preloading_delays_no_key() -> None:
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < LONGEST_S


async def _stream(terminal: Terminal) -> None:
    """Shows 500 tokens per second for two seconds."""
    tokens = re.findall(r"\s*\S+|\s+$", BLOCKS * 20)[:TOKENS]
    began = time.perf_counter()
    async with terminal.answer() as view:
        for index, token in enumerate(tokens):
            view.feed(token)
            await asyncio.sleep(max(0.0, began + index / TOKENS_PER_S - time.perf_counter()))


def test_answer_at_500_tokens_per_second_delays_no_key() -> None:
    terminal = Terminal(TerminalStyle(plain=False, color=True, symbols=True), io.StringIO())
    terminal.preload()
    assert asyncio.run(longest_gap_s(_stream(terminal))) < LONGEST_S


def test_keys_appear_at_once_below_a_fast_answer(standin: StandIn, url: str) -> None:
    """Including the first message, which is sent before the client has imported what an answer needs."""
    standin.answer, standin.chunks_per_s = BLOCKS * 100, TOKENS_PER_S
    waits_s = []
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=100, rows=40) as terminal:
        terminal.wait_for("You:")
        terminal.type("go\r")
        terminal.wait_for("A heading")
        for at, key in enumerate(KEYS):
            terminal.watch(BETWEEN_KEYS_S)
            waits_s.append(terminal.echo_s(key, f"You: {KEYS[: at + 1]}"))
    assert median(waits_s) < USUAL_S
    assert sorted(waits_s)[-3] < LONGEST_S  # a busy machine may delay some
