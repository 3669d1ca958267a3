"""Runs checks against a running server, and defines the requests and expectations that checks use."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
from httpx_sse import SSEError, connect_sse
from pydantic import BaseModel, ValidationError

from app.models.schemas import ErrorResponse, ModelListResponse

ResponseT = TypeVar("ResponseT", bound=BaseModel)

API = "/api/v1"
GREEDY = {"temperature": 0, "max_tokens": 24}
QUESTION = "What is the capital of France?"


class CheckFailed(Exception):
    """An expectation that does not hold, in a few words."""


def expect(holds: bool, problem: str) -> None:
    """Fails the check unless the expectation holds.

    Raises:
        CheckFailed: with `problem`.
    """
    if not holds:
        raise CheckFailed(problem)


def expect_refusal(response: httpx.Response, status: int, code: str) -> None:
    """Expects an error response with this status and this error code.

    Raises:
        CheckFailed: the response is another one.
    """
    expect(response.status_code == status, f"the status is {response.status_code}, not {status}")
    found = ErrorResponse.model_validate_json(response.content).error.code
    expect(found == code, f"the error code is {found}, not {code}")


class Target:
    """The server under test, and the conversation that the checks share."""

    def __init__(self, http: httpx.Client, has_key: bool = False) -> None:
        self.http = http
        self.has_key = has_key
        self.conversation_id = ""

    @property
    def conversation(self) -> str:
        return f"{API}/chat/conversation/{self.conversation_id}"

    def get(self, path: str, model: type[ResponseT]) -> ResponseT:
        return _parse(model, self.http.get(path))

    def post(self, path: str, model: type[ResponseT], **body: object) -> ResponseT:
        """Sends the fields as a JSON body; without fields, no body."""
        return _parse(model, self.http.post(path, json=body or None))

    def stream(self, path: str, model: type[ResponseT], **body: object) -> tuple[list[str], str, ResponseT]:
        """Sends a streaming request. Returns the event names, the text of the deltas, and the last event."""
        with connect_sse(self.http, "POST", path, json=body | {"stream": True}) as source:
            _expect_success(source.response)
            events = [(event.event, event.data) for event in source.iter_sse()]
        names = [name for name, _ in events]
        expect(names[-1:] == ["done"], f"the stream ended with {names[-1:]}")
        text = "".join(json.loads(data)["text"] for name, data in events if name == "delta")
        return names, text, model.model_validate_json(events[-1][1])


@dataclass(frozen=True, slots=True)
class Check:
    """One property of a route. `run` raises CheckFailed if it does not hold."""

    route: str
    description: str
    run: Callable[[Target], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a check. `problem` is None if it passed."""

    check: Check
    problem: str | None
    seconds: float


def current_model(target: Target) -> str:
    """Returns the name of the current model; `none` without one."""
    return target.get(f"{API}/chat/models", ModelListResponse).current_model or "none"


def run_checks(checks: Iterable[Check], target: Target) -> Iterator[Outcome]:
    """Runs all checks in order, also after failures."""
    for check in checks:
        began = time.perf_counter()
        problem = _problem(check, target)
        yield Outcome(check, problem, time.perf_counter() - began)


def _problem(check: Check, target: Target) -> str | None:
    try:
        check.run(target)
    except CheckFailed as failure:
        return str(failure)
    except ValidationError as error:
        return f"the response does not match the schema ({error.error_count()} differences)"
    except (httpx.HTTPError, SSEError) as error:
        return f"the connection failed: {error or type(error).__name__}"
    return None


def _expect_success(response: httpx.Response) -> None:
    if not response.is_success:
        error = ErrorResponse.model_validate_json(response.read()).error
        raise CheckFailed(f"status {response.status_code}: {error.message}")


def _parse(model: type[ResponseT], response: httpx.Response) -> ResponseT:
    _expect_success(response)
    return model.model_validate_json(response.content)
