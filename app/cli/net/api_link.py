"""Sends requests to the server's API and reads its responses and event streams, over one HTTP client."""

from collections.abc import Mapping

import httpx
from httpx_sse import SSEError, aconnect_sse
from pydantic import BaseModel

from app.cli.errors import KEPT, SAME_VERSION, NotOurServer, StreamBroken
from app.cli.net.address import address_of
from app.cli.net.environment import proxy_for
from app.cli.net.event_stream import (
    ResponseT,
    ServerEvent,
    ServerEvents,
    StreamPosition,
    parse,
    read_events,
    refusal,
)
from app.cli.net.failures import unreachable
from app.cli.net.transport import transport_for
from app.models.schemas import KEEP_ALIVE_S, StartEvent

CONNECT_TIMEOUT_S = 3.0
RESPONSE_TIMEOUT_S = 30.0
FIRST_EVENT_TIMEOUT_S = 600.0  # loading a model may take this long
SILENCE_S = 3.5 * KEEP_ALIVE_S  # within an open stream: three keep-alives are missing

SESSION_HEADER = "X-Session-Id"


class ApiLink:
    """The HTTP connections to one server.

    A `session_id` is sent in a header, for load balancers in front of several servers.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        setting: str = "",
        silence_s: float = SILENCE_S,
    ) -> None:
        """`setting` names the option, variable or file with the address, for error messages.

        A stream in which nothing arrives for `silence_s` counts as broken.
        """
        self._silence_s = silence_s
        self._address = address_of(url, api_key, setting)
        self._proxy = proxy_for(self._address) if transport is None else None
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/api/v1",
            headers=self._address.headers,
            transport=transport or transport_for(self._address, self._proxy),
            trust_env=False,
        )

    @property
    def url(self) -> str:
        return self._address.url

    def move_to(self, url: str) -> None:
        """Uses another address from now on; the machine and the key stay the same."""
        self._address = address_of(url)
        self._http.base_url = httpx.URL(f"{self.url}/api/v1")

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        model: type[ResponseT],
        body: BaseModel | None = None,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        session_id: str | None = None,
    ) -> ResponseT:
        """Returns the response.

        Raises:
            ClientError: the server does not answer, refuses, or answers something else.
        """
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        headers = _session(session_id)
        try:
            response = await self._http.request(
                method, path, json=_json(body), headers=headers, timeout=timeout
            )
        except httpx.HTTPError as error:
            raise unreachable(self._address, self._proxy, error) from None
        if not response.is_success:
            raise refusal(response)
        return parse(model, response.content)

    async def stream(
        self,
        path: str,
        body: BaseModel | None,
        models: Mapping[str, type[ServerEvent]],
        position: StreamPosition,
    ) -> ServerEvents:
        """Yields the events of a stream, and records in `position` how far it was read.

        Raises as `call` does, and StreamBroken if the connection breaks.
        """
        timeout = httpx.Timeout(FIRST_EVENT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        has_started = has_begun = False  # the response, and an answer
        try:
            method, headers = "GET" if body is None else "POST", _session(position.session_id)
            async with aconnect_sse(
                self._http, method, path, json=_json(body), headers=headers, timeout=timeout
            ) as source:
                has_started = True
                # The transport reads this dictionary anew for the body.
                source.response.request.extensions["timeout"]["read"] = self._silence_s
                async for event in read_events(source, models, position):
                    has_begun |= isinstance(event, StartEvent)
                    yield event
        except SSEError:
            raise NotOurServer("The server did not send an event stream.", SAME_VERSION) from None
        except httpx.HTTPError as error:
            if not has_started:
                raise unreachable(self._address, self._proxy, error) from None
            raise StreamBroken(
                f"The connection to the server was lost: {_stream_failure(error)}.",
                KEPT if has_begun else "No answer has begun. Try again.",
            ) from None


def _session(session_id: str | None) -> dict[str, str]:
    return {} if session_id is None else {SESSION_HEADER: session_id}


def _json(body: BaseModel | None) -> object:
    return None if body is None else body.model_dump(mode="json", exclude_unset=True)


def _stream_failure(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "nothing arrived for too long"
    return "the stream ended early"
