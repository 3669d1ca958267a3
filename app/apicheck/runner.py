"""Owns how a running server is checked: requests whose answers must hold, and the outcome of each check."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
from httpx_sse import SSEError, connect_sse
from pydantic import BaseModel, ValidationError

from app.models.schemas import ErrorResponse

ResponseT = TypeVar("ResponseT", bound=BaseModel)

API = "/api/v1"


class CheckFailed(Exception):
    """What was promised and not found, in a few words."""


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(otherwise)


def expect_refusal(response: httpx.Response, status: int, code: str) -> None:
    """The answer has that status, and an error of the one shape."""
    expect(response.status_code == status, f"status {response.status_code}, not {status}")
    found = ErrorResponse.model_validate_json(response.content).error.code
    expect(found == code, f"code {found}, not {code}")


class Target:
    """The server that is checked, and the conversation that the checks share."""

    def __init__(self, http: httpx.Client, has_key: bool = False) -> None:
        self.http = http
        self.has_key = has_key
        self.conversation_id = ""

    @property
    def conversation(self) -> str:
        return f"{API}/chat/conversation/{self.conversation_id}"

    def get(self, path: str, kind: type[ResponseT]) -> ResponseT:
        return _parsed(kind, self.http.get(path))

    def post(self, path: str, kind: type[ResponseT], **body: object) -> ResponseT:
        """Without fields there is no body at all."""
        return _parsed(kind, self.http.post(path, json=body or None))

    def stream(self, path: str, kind: type[ResponseT], **body: object) -> tuple[list[str], str, ResponseT]:
        """The names of the events, the text of the deltas, and the reply that the last event holds."""
        with connect_sse(self.http, "POST", path, json=body | {"stream": True}) as source:
            _expect_success(source.response)
            events = [(event.event, event.data) for event in source.iter_sse()]
        names = [name for name, _ in events]
        expect(names[-1:] == ["done"], f"the stream ended with {names[-1:]}")
        text = "".join(json.loads(data)["text"] for name, data in events if name == "delta")
        return names, text, kind.model_validate_json(events[-1][1])


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a route promises. `run` raises CheckFailed where it does not hold."""

    route: str
    what: str
    run: Callable[[Target], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    check: Check
    problem: str | None
    seconds: float


def run_checks(checks: Iterable[Check], target: Target) -> Iterator[Outcome]:
    """Runs every check, whatever became of those before it."""
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
        return f"the answer has another shape: {error.error_count()} differences"
    except (httpx.HTTPError, SSEError) as error:
        return f"the connection broke: {error or type(error).__name__}"
    return None


def _expect_success(response: httpx.Response) -> None:
    if not response.is_success:
        error = ErrorResponse.model_validate_json(response.read()).error
        raise CheckFailed(f"status {response.status_code}: {error.message}")


def _parsed(kind: type[ResponseT], response: httpx.Response) -> ResponseT:
    _expect_success(response)
    return kind.model_validate_json(response.content)
