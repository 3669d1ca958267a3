"""Key presses are handled while the client imports modules or shows an answer."""

from pathlib import Path

from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.waiting import wait_for

SLOW_MODULE = """
import pathlib, time

pathlib.Path("importing").touch()
deadline = time.monotonic() + 20
while not pathlib.Path("typed").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
pathlib.Path("imported").touch()
raise ImportError
"""
TOKENS_PER_S = 500
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


def test_preloading_delays_no_key(url: str, tmp_path: Path) -> None:
    (tmp_path / "pygments.py").write_text(SLOW_MODULE)
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(PYTHONPATH=str(tmp_path))) as terminal:
        wait_for(Path("importing").exists)
        terminal.type("hello")
        terminal.wait_for("You: hello")
        assert not Path("imported").exists()
        Path("typed").touch()
        wait_for(Path("imported").exists)


def test_keys_appear_below_a_fast_answer(standin: StandIn, url: str) -> None:
    """Including the first message, which is sent before the client has imported what an answer needs."""
    standin.answer, standin.chunks_per_s = BLOCKS * 100, TOKENS_PER_S
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=100, rows=40) as terminal:
        terminal.wait_for("You:")
        terminal.type("go\r")
        terminal.wait_for("A heading")
        for length in range(1, 9):
            terminal.type("abcdefgh"[length - 1])
            terminal.wait_for("You: " + "abcdefgh"[:length])
        assert not standin.conversations["conv_1"].messages  # the answer is still arriving
