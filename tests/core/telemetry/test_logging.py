"""The format of log lines, which no message can break."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from app.core.telemetry.logging import (
    JsonFormatter,
    LineFormatter,
    configure,
    escape_control,
    request_id,
    with_fields,
)

NASTY = "a\nb\r\x1b[31m\x85\u2028\x00\ud800c"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("test")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_escape_leaves_one_printable_line() -> None:
    assert escape_control(NASTY) == r"a\u000ab\u000d\u001b[31m\u0085\u2028\u0000\ud800c"
    assert escape_control("schön 😀") == "schön 😀"


def test_line_has_time_level_logger_request_and_message(output: io.StringIO) -> None:
    token = request_id.set("abc")
    logging.getLogger("test").warning("tokens=%d", 3)
    request_id.reset(token)
    assert output.getvalue().endswith(" WARNING test [abc] tokens=3\n")
    assert output.getvalue()[:2] == "20"


def test_message_cannot_forge_a_line(output: io.StringIO) -> None:
    logging.getLogger("test").error("from %s", NASTY)
    assert output.getvalue().count("\n") == 1


def test_traceback_is_indented_whatever_the_error_says(output: io.StringIO) -> None:
    try:
        raise ValueError("x\n2026-01-01 00:00:00,000 INFO app [-] forged")
    except ValueError:
        logging.getLogger("test").exception("failed")
    first, *rest = output.getvalue().splitlines()
    assert first.endswith("failed")
    assert rest and all(line.startswith("    | ") for line in rest)


@pytest.fixture
def loggers() -> Iterator[None]:
    names = [None, "app", "uvicorn", "uvicorn.error", "uvicorn.access"]
    found = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.disabled, list(logger.handlers)) for logger in found]
    yield
    for logger, (level, disabled, handlers) in zip(found, before, strict=True):
        logger.setLevel(level)
        logger.disabled, logger.handlers[:] = disabled, handlers


def test_json_line_has_everything_and_stays_one_line(output: io.StringIO) -> None:
    logger = logging.getLogger("test")
    logger.handlers[-1].setFormatter(JsonFormatter())
    try:
        raise ValueError(NASTY)
    except ValueError:
        logger.exception("from %s", NASTY, extra=with_fields({"tokens": 3}, {"status": 500}))
    line = json.loads(output.getvalue())
    assert output.getvalue().count("\n") == 1 and output.getvalue().isascii()
    assert line["message"] == f"from {NASTY}" and NASTY in line["exception"]
    assert (line["tokens"], line["status"], line["level"], line["request_id"]) == (3, 500, "ERROR", "-")


def test_text_line_ends_with_the_fields_that_the_message_has_not(output: io.StringIO) -> None:
    logging.getLogger("test").error(
        "GET 200", extra=with_fields({"tokens": 3, "model": NASTY}, {"status": 200})
    )
    assert output.getvalue().endswith(f"GET 200 tokens=3 model={escape_control(NASTY)}\n")


def test_configure_changes_the_format_of_all_lines(loggers: None, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()
    configure("INFO")
    configure("INFO", "json")
    logging.getLogger("app.test").info("once")
    assert json.loads(capsys.readouterr().err)["message"] == "once"


def test_configure_twice_writes_each_line_once(loggers: None, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()
    configure("INFO")
    configure("INFO")
    logging.getLogger("app.test").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_configure_takes_the_server_in_and_keeps_libraries_quiet(
    loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger().handlers.clear()
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger("uvicorn.error").setLevel("ERROR")
    configure("DEBUG")
    logging.getLogger("uvicorn.error").info("from the server")
    logging.getLogger("uvicorn.access").info("a second access line")
    logging.getLogger("httpx").info("from a library")
    written = capsys.readouterr().err
    assert written.count("from the server") == 1
    assert "uvicorn.error [-]" in written
    assert "second" not in written and "library" not in written
