"""The tables of models, requests and failures."""

import io
from datetime import UTC, datetime

import pytest

from app.cli.monitor.tables import MAX_REQUESTS, activity_tables, speeds_between
from app.cli.output.console import SafeConsole
from app.models.schemas import ActivityResponse, FailureEntry, ModelActivity, RequestEntry

MODEL = ModelActivity(
    name="builtin",
    status="loaded",
    running=2,
    waiting=1,
    kv_used=0.25,
    memory_bytes=500_000_000,
    prompt_tokens=10,
    generated_tokens=100,
)
REQUEST = RequestEntry(
    request_id="mine", model_name=None, stage="model", age_s=1.25, prompt_tokens=3, completion_tokens=0
)
FAILURE = FailureEntry(
    timestamp=datetime.now(UTC),
    request_id="other\x1b[2J",
    model_name="gpt2",
    code="queue_full",
    message="The queue is full. " * 20,
)


def report(**changes: object) -> ActivityResponse:
    empty = ActivityResponse(version="1", uptime=10, models=[], requests=[], failures=[])
    return empty.model_copy(update=changes)


def shown(now: ActivityResponse, speeds: dict[str, float] | None = None, width: int = 100) -> str:
    output = io.StringIO()
    SafeConsole(output, width=width).print(*activity_tables(now, speeds, width), sep="\n")
    return output.getvalue()


def test_tables_show_models_requests_and_failures() -> None:
    failure = FAILURE.model_copy(update={"timestamp": datetime.now(UTC)})
    text = shown(report(models=[MODEL], requests=[REQUEST], failures=[failure]), {"builtin": 12.34})
    for part in ("builtin", "loaded", "25%", "500 MB", "12.3", "mine", "1.2 s", "waits for the model"):
        assert part in text, part
    assert "queue_full: The queue is full." in text and "just now" in text and "\x1b" not in text


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_model_without_memory_here_has_a_dash(memory_bytes: int | None) -> None:
    text = shown(report(models=[MODEL.model_copy(update={"memory_bytes": memory_bytes})]))
    assert "-" in text and "bytes" not in text


def test_narrow_terminal_gets_whole_words() -> None:
    failure = FAILURE.model_copy(update={"timestamp": datetime.now(UTC)})
    text = shown(report(models=[MODEL], requests=[REQUEST], failures=[failure]), width=40)
    for part in ("builtin", "loaded", "500 MB", "100", "1.2 s", "just now", "queue_full"):
        assert part in text, part
    assert "waits for the" in text and "KV" not in text


def test_nothing_is_shown_of_an_idle_server_without_models() -> None:
    assert shown(report()).strip() == ""


def test_requests_beyond_the_limit_are_counted() -> None:
    assert "and 5 more" in shown(report(requests=[REQUEST] * (MAX_REQUESTS + 5)))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = shown(report(models=[MODEL], requests=[REQUEST], failures=[FAILURE]), width=width)
    assert all(len(line) <= width for line in text.splitlines())


def test_speed_is_what_was_generated_between_two_reports() -> None:
    later = MODEL.model_copy(update={"generated_tokens": 150})
    new = MODEL.model_copy(update={"name": "new", "generated_tokens": 7})
    after = report(models=[later, new], uptime=12)
    assert speeds_between(report(models=[MODEL]), after) == {"builtin": 25, "new": 3.5}
    assert speeds_between(after, report(uptime=1)) == {}, "the server was started again"
