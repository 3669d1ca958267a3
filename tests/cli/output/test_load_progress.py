import io
from collections import Counter

import pytest
from rich.console import Console

from app.cli.output.load_progress import progress_of
from app.cli.output.progress_bar import ProgressUpdate
from app.cli.output.terminal import Terminal, TerminalStyle
from app.models.schemas import LoadProgress
from tests.cli.conftest import Seen


def _download(fraction: float, done_bytes: int) -> LoadProgress:
    return LoadProgress(
        model_name="gpt2",
        stage="download",
        fraction=fraction,
        done_bytes=done_bytes,
        total_bytes=548_000_000,
        bytes_per_s=2.5e6,
        seconds_left=110,
    )


def test_progress_shows_only_known_figures() -> None:
    loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
    assert str(progress_of(loading)) == "gpt2: reading its weights"
    noted = loading.model_copy(update={"note": "a is unloaded"})
    assert str(progress_of(noted)) == "gpt2: reading its weights (a is unloaded)"
    assert progress_of(loading).share == "50%"
    download = _download(0.5, 274_000_000)
    assert str(progress_of(download)) == "gpt2: downloading 274 MB of 548 MB at 2 MB/s (1 min 50 s left)"


@pytest.mark.parametrize(
    ("stage", "fraction", "words"),
    [
        ("import", 1, "starting its worker"),
        ("load", 1, "reading its weights"),
        ("check", 0.5, "checking its first results"),
        ("warm up", 0, "warming up"),
    ],
)
def test_stage_without_a_measured_share_shows_none(stage: str, fraction: float, words: str) -> None:
    update = progress_of(LoadProgress(model_name="gpt2", stage=stage, fraction=fraction))
    assert (str(update), update.share) == (f"gpt2: {words}", "")


def test_every_stage_has_words() -> None:
    described = str(LoadProgress.__doc__).partition("`stage` is ")[2].partition(" or ready")[0]
    stages = described.replace(",", " ").split()
    assert {"import", "pack"} < {*stages}
    for stage in " ".join(stages).replace("warm up", "warm_up").split():
        progress = LoadProgress(model_name="gpt2", stage=stage.replace("_", " "), fraction=0)
        assert str(progress_of(progress)) != f"gpt2: {progress.stage}"


def test_bar_shows_no_share_that_is_unknown(seen: Seen) -> None:
    with seen.rich().bar() as bar:
        bar.show(ProgressUpdate("starting the server"))
    assert "starting the server" in seen.answers and "%" not in seen.answers
    with seen.rich().bar() as bar:
        bar.show(ProgressUpdate("gpt2: load", 0.5))
    assert "50%" in seen.answers


def test_bar_forgets_the_share_of_the_stage_before(seen: Seen) -> None:
    with seen.rich().bar() as bar:
        bar.show(ProgressUpdate("reading", 0.5))
        bar.show(ProgressUpdate("warming up"))
    assert "%" not in seen.answers.rpartition("warming up")[2]


def test_plain_progress_writes_a_line_for_each_tenth(seen: Seen) -> None:
    loading = LoadProgress(model_name="builtin", stage="load", fraction=0)
    with seen.terminal().bar() as bar:
        for percent in range(100):  # the byte counts change every time
            bar.show(progress_of(_download(percent / 100, 5_480_000 * percent)))
            bar.show(progress_of(loading))
    lines = seen.messages.splitlines()
    assert lines[:2] == [
        "gpt2: downloading 0 bytes of 548 MB at 2 MB/s (1 min 50 s left)...",
        "builtin: reading its weights...",
    ]
    assert [line.rpartition(" ")[2] for line in lines[2:]] == [f"{tenth}0%" for tenth in range(1, 10)]


def test_narrow_terminal_shows_progress_without_a_bar() -> None:
    terminal = Terminal(TerminalStyle(plain=False, color=False, symbols=True))
    shown = io.StringIO()
    terminal.console = Console(file=shown, width=25, force_terminal=True, color_system=None)
    with terminal.bar() as bar:
        bar.show(progress_of(_download(0.5, 274_000_000)))
    assert "gpt2: download" in shown.getvalue() and "━" not in shown.getvalue()


@pytest.mark.parametrize("width", [25, 40, 50, 60, 90])
def test_no_line_of_a_download_ends_within_a_figure(width: int) -> None:
    terminal = Terminal(TerminalStyle(plain=False, color=False, symbols=True))
    shown = io.StringIO()
    terminal.console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    with terminal.bar() as bar:
        bar.show(progress_of(_download(0.5, 274_000_000)))
    lines = [line.split("━")[0].rstrip() for line in shown.getvalue().splitlines()]
    for figure in ("274 MB of 548 MB", "at 2 MB/s", "(1 min 50 s left)"):
        assert any(figure in line for line in lines), lines


@pytest.mark.parametrize("width", range(16, 90))
def test_no_word_of_a_label_is_cut(width: int) -> None:
    terminal = Terminal(TerminalStyle(plain=False, color=False, symbols=True))
    shown = io.StringIO()
    terminal.console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    label = "smollm2-135m: checking its first results"
    with terminal.bar() as bar:
        bar.show(ProgressUpdate(label))
    assert "…" not in shown.getvalue()
    assert not Counter(label.replace(" ", "")) - Counter(shown.getvalue())
