"""Fixtures of the client's tests: a scripted server on a real port, and a terminal that can be read."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from app.cli.terminal import Look, Terminal
from tests.cli.standin import StandIn, served


class ReadableScreen(io.StringIO):
    """Says it is a terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


@dataclass
class Seen:
    """What a plain terminal showed: answers in `out`, all else in `err`."""

    out: io.StringIO = field(default_factory=ReadableScreen)
    err: io.StringIO = field(default_factory=io.StringIO)

    @property
    def answers(self) -> str:
        return self.out.getvalue()

    @property
    def told(self) -> str:
        return self.err.getvalue()

    def terminal(self) -> Terminal:
        return Terminal(Look(plain=True, color=False, symbols=True), self.out, self.err)

    def rich(self) -> Terminal:
        return Terminal(Look(plain=False, color=True, symbols=True), self.out, self.err)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def standin() -> StandIn:
    return StandIn()


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    with served(standin) as address:
        yield address


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test has its own working folder and its own folder of state."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
