"""The HTTP connection to a remote engine."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.core.catalogue import RemoteEngine
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, ModelLoadFailed
from app.core.telemetry.propagation import outgoing_headers
from app.engine.remote.failures import FailureReader
from app.engine.remote.waits import OpenWaits

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_MAX_CONNECTIONS = 256
_RETRY_AFTER_S = 5


class UpstreamConnection:
    """Sends requests to one remote engine, and limits the waits for it. The owner must await `close`."""

    def __init__(self, engine: RemoteEngine, key: str | None, failures: FailureReader) -> None:
        """Raises ModelLoadFailed if the environment's proxy or certificates cannot be used."""
        self.waits = OpenWaits()
        self._engine = engine
        self._failures = failures
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_S),  # the rest is up to each request's deadline
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
            )
        except (ValueError, ImportError, OSError) as error:
            logger.error("remote engine: %s", error)
            raise ModelLoadFailed(
                f"No connection to the remote engine of {failures.model_name} can be prepared.",
                hint="Check the variables of the environment for proxies and certificates; see the log.",
                retry_after=_RETRY_AFTER_S,
            ) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, deadline: Deadline) -> Any:  # Any: JSON
        """Returns the JSON document at the path. Raises as `_ask` does."""
        return await self._ask("GET", path, None, deadline)

    async def post(self, path: str, body: dict[str, Any], deadline: Deadline) -> Any:  # Any: JSON
        """Returns the JSON answer. Raises as `_ask` does."""
        return await self._ask("POST", path, body, deadline)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, deadline: Deadline) -> Any:
        """Raises WorkerDied if there is no answer, and the error of an answer that is no success."""
        try:
            async with self.waits.until(deadline):
                response = await self._http.request(
                    method, self._url(path), json=body, headers=outgoing_headers()
                )
        except (httpx.HTTPError, DeadlineExceeded) as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise self._failures.refused(
                response.status_code, response.content, response.headers.get("retry-after")
            )
        try:
            return response.json()
        except ValueError:
            raise self._failures.refused(404, b"") from None

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], deadline: Deadline
    ) -> AsyncIterator[httpx.Response]:
        """Lends the response, whose body is not read yet, whatever its status.

        Raises:
            WorkerDied: the engine cannot be reached.
            DeadlineExceeded: it did not answer in time.
            ShuttingDown.
        """
        request = self._http.build_request("POST", self._url(path), json=body, headers=outgoing_headers())
        try:
            async with self.waits.until(deadline):
                response = await self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        try:
            yield response
        finally:
            await response.aclose()

    def _url(self, path: str) -> str:
        """Returns the address of a path below the API's, or of one beside it if it begins with `/`."""
        base = self._engine.base_url
        return f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"

    def _unreachable(self, error: Exception) -> Exception:
        logger.warning("remote engine: url=%s error=%r", self._engine.base_url, error)
        return self._failures.unreachable(error)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the other server's list of models says about the model."""

    owner: str | None
    context_length: int | None  # tokens


async def find_listed(
    connection: UpstreamConnection, engine: RemoteEngine, deadline: Deadline, name: str
) -> Listed:
    """Returns what the list of models says.

    Raises:
        ModelLoadFailed: the list does not have the model.
        ModelUnavailable: the list cannot be read.
    """
    document = await connection.get("models", deadline)
    cards = document.get("data") if isinstance(document, dict) else None
    listed = {card.get("id"): card for card in cards or () if isinstance(card, dict)}
    if engine.model not in listed:
        raise ModelLoadFailed(
            f"The remote engine of {name} has no model {engine.model!r}.",
            hint=f"It has: {', '.join(sorted(map(str, listed))[:20]) or 'none'}.",
        )
    card = listed[engine.model]
    length = card.get("max_model_len") or (card.get("meta") or {}).get("n_ctx")
    return Listed(card.get("owned_by"), length if isinstance(length, int) else None)
