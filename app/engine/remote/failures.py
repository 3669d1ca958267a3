"""Translates the failures of a remote engine into this server's errors, without its address or key."""

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

from app.core.errors import (
    ContextOverflow,
    DeadlineExceeded,
    DomainError,
    InvalidRequest,
    ModelUnavailable,
    QueueFull,
    WorkerDied,
)

_OVERFLOW = re.compile(
    r"context.{0,20}(length|size|window)|maximum (allowed )?(model|input|prompt)?.?length|exceed_context"
    r"|max_new_tokens.{0,20}must be|reduce the length of|(prompt|input) is too long",
    re.IGNORECASE | re.DOTALL,
)
_GATEWAY_STATUSES = (502, 503, 504)
_BUSY_RETRY_S = 2
_MAX_RETRY_S = 3600
_MAX_QUOTED = 300  # characters of the other server's message


@dataclass(frozen=True, slots=True)
class FailureReader:
    """Reads the failures of the remote engine of one model. `secrets` never reach a client."""

    model_name: str
    secrets: tuple[str, ...]

    def unreachable(self, error: Exception) -> WorkerDied:
        """Returns the error for a connection that could not be made, or broke off."""
        return WorkerDied(
            f"The remote engine of {self.model_name} cannot be reached ({cause_of(error)}).",
            hint="Send the message again later. The server's log names the address.",
            retry_after=_BUSY_RETRY_S,
        )

    def broke_off(self) -> WorkerDied:
        """Returns the error for a stream without an end."""
        return WorkerDied(
            f"The remote engine of {self.model_name} broke off its reply.", hint="Send the message again."
        )

    def refused(self, status: int, content: bytes, retry_after: str | None = None) -> DomainError:
        """Returns the error for an answer that is no success."""
        said = self._said(content)
        wait_s = _seconds(retry_after)
        if 300 <= status < 400:
            return ModelUnavailable(
                f"The remote engine of {self.model_name} redirects to another address.",
                hint="Check base_url in the models file.",
            )
        if status in (401, 403):
            return ModelUnavailable(
                f"The remote engine of {self.model_name} refuses this server's key.",
                hint="Check the variable that api_key_env names in the models file.",
            )
        if status == 404:
            return ModelUnavailable(
                f"The remote engine of {self.model_name} does not serve that model, or not in this way.{said}"
            )
        if status == 429:
            return QueueFull(
                f"The remote engine of {self.model_name} has too many requests.",
                hint="Try again in a moment.",
                retry_after=wait_s,
            )
        if status >= 500:
            # A 500 may be due to the request alone, and says that the engine is there.
            kind_of_error = WorkerDied if status in _GATEWAY_STATUSES else ModelUnavailable
            return kind_of_error(
                f"The remote engine of {self.model_name} failed with the status {status}.{said}",
                hint="Send the message again later.",
                retry_after=wait_s,
            )
        if is_overflow(content):
            return self._overflow(said)
        return InvalidRequest(f"The remote engine of {self.model_name} refuses the request.{said}")

    def failed(self, error: Any) -> DomainError:  # Any: JSON, in whatever form the other server has it
        """Returns the error for one that was sent in a stream."""
        content = json.dumps({"error": error}).encode()
        said = self._said(content)
        if is_overflow(content):
            return self._overflow(said)
        return ModelUnavailable(f"The remote engine of {self.model_name} failed.{said}")

    def sent(self, what: str) -> ModelUnavailable:
        """Returns the error for a stream that cannot be read."""
        return ModelUnavailable(f"The remote engine of {self.model_name} sent {what}.")

    def _overflow(self, said: str) -> ContextOverflow:
        return ContextOverflow(
            f"The remote engine of {self.model_name} cannot fit the chat into its context window.{said}",
            hint="Shorten the message, or begin a new conversation.",
        )

    def _said(self, content: bytes) -> str:
        """Returns the other server's message, as a sentence to append; empty if it cannot be read."""
        message = _message_of(content)
        for secret in self.secrets:
            message = message.replace(secret, "…")
        message = " ".join(message.split())
        if not message:
            return ""
        return f" It says: {message[:_MAX_QUOTED]}{'…' if len(message) > _MAX_QUOTED else ''}"


def parse_json(content: bytes | str) -> Any:  # Any: JSON
    """Returns the document. Raises ValueError if there is none, or one that is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _seconds(retry_after: str | None) -> int:
    """Returns the time that a Retry-After header asks for."""
    if retry_after is None or not retry_after.isdecimal():
        return _BUSY_RETRY_S
    return min(int(retry_after[:9]), _MAX_RETRY_S)


def is_overflow(content: bytes) -> bool:
    """Returns whether a refusal means that the prompt, or the prompt and the reply, are too long."""
    return _OVERFLOW.search(content.decode("utf-8", "replace")) is not None


def cause_of(error: Exception) -> str:
    """Returns the cause of a failed connection in a few words, without the address."""
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return "its certificate is not trusted, or it does not speak TLS"
    if "name or service" in text or "nodename" in text or "name resolution" in text:
        return "its name is not known"
    if "refused" in text or "attempts failed" in text:
        return "connection refused"
    if isinstance(error, DeadlineExceeded | httpx.TimeoutException):
        return "no answer in time"
    return "connection lost"


def _message_of(content: bytes) -> str:
    try:
        document = parse_json(content)
    except ValueError:
        return ""
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or ""
    return error if isinstance(error, str) else ""
