"""The HTTP connection to a remote engine."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.core.catalogue import RemoteEngine
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, ModelLoadFailed
from app.core.telemetry.propagation import outgoing_headers
from app.engine.remote.failures import FailureReader, parse_json
from app.engine.remote.waits import OpenWaits

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
# The owner limits the open requests. Idle connections end before uvicorn or llama-server ends them (5 s).
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=4.0)
_MAX_ANSWER_BYTES = 16_000_000
_RETRY_AFTER_S = 5


class UpstreamConnection:
    """Sends requests to one remote engine, and limits the waits for it. The owner must await `close`."""

    def __init__(self, engine: RemoteEngine, key: str | None, failures: FailureReader) -> None:
        """Raises ModelLoadFailed if the environment's proxy or certificates cannot be used."""
        self.waits = OpenWaits()
        self._engine = engine
        self._failures = failures
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_S),  # the rest is up to each request's deadline
                limits=_LIMITS,
            )
        except (ValueError, ImportError, OSError) as error:
            logger.error("remote engine: %s", error)
            raise ModelLoadFailed(
                f"No connection to the remote engine of {failures.model_name} can be prepared.",
                hint="Check the variables of the environment for proxies and certificates; see the log.",
                retry_after=_RETRY_AFTER_S,
            ) from error

    @property
    def model_name(self) -> str:
        return self._failures.model_name

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, deadline: Deadline) -> Any:  # Any: JSON
        """Returns the JSON document at the path. Raises as `_ask` does."""
        return self._document(await self._ask("GET", path, None, deadline))

    async def post(self, path: str, body: dict[str, Any], deadline: Deadline) -> Any:  # Any: JSON
        """Returns the JSON answer. Raises as `_ask` does."""
        return self._document(await self._ask("POST", path, body, deadline))

    async def check(self, path: str, deadline: Deadline) -> None:
        """Raises as `_ask` does, unless there is something at the path."""
        await self._ask("GET", path, None, deadline)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, deadline: Deadline) -> bytes:
        """Raises WorkerDied if there is no answer, and the error of an answer that is no success."""
        request = self._http.build_request(method, self._url(path), json=body, headers=outgoing_headers())
        try:
            async with self.waits.until(deadline):
                response = await self._http.send(request, stream=True)
                try:
                    content = await read_start(response, _MAX_ANSWER_BYTES)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, DeadlineExceeded) as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise self._failures.refused(response.status_code, content, response.headers.get("retry-after"))
        return content

    def _document(self, content: bytes) -> Any:  # Any: JSON
        try:
            return parse_json(content)
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


async def read_start(response: httpx.Response, limit: int) -> bytes:
    """Returns the answer's content, of a longer one roughly the first `limit` bytes."""
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > limit:
            break
    return content
