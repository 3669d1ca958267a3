"""Reads the events of a turn to their end, also over several connections."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.cli.errors import KEPT, ClientError, Refused, StreamBroken, Unreachable
from app.cli.net.client import ChatClient
from app.cli.net.event_stream import ServerEvent, ServerEvents, StreamPosition
from app.models.schemas import StartEvent

RETRY_DELAYS_S = (0.1, 0.4, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class ConnectionNotice:
    """What to show about the connection; an empty text when it is there again."""

    text: str


TurnEvents = AsyncGenerator[ServerEvent | ConnectionNotice, None]


async def unbroken(
    client: ChatClient,
    begin: Callable[[StreamPosition], ServerEvents],
    delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> TurnEvents:
    """Yields the events of the turn that `begin` begins. Goes on after the last one if the connection breaks.

    Raises:
        StreamBroken: the turn cannot be picked up again: the server does not keep it, or does not answer.
        ClientError: as the stream raises it.
    """
    position = StreamPosition()
    events, attempt = begin(position), 0
    while True:
        try:
            async with aclosing(events):
                async for event in events:
                    if attempt:
                        attempt = 0
                        yield ConnectionNotice("")
                    if isinstance(event, StartEvent):
                        position.message_id = event.message_id
                    yield event
            return
        except (StreamBroken, Unreachable) as error:
            if not position.can_resume or attempt == len(delays_s):
                raise _broken(error) if attempt else error from None
        except Refused as error:
            raise _broken(error) if attempt and error.status is not None else error from None
        yield ConnectionNotice(f"The connection was lost. Connecting again ({attempt + 1})...")
        await asyncio.sleep(delays_s[attempt])
        attempt += 1
        events = client.turn_events(position)


def _broken(error: ClientError) -> StreamBroken:
    return StreamBroken(
        f"The connection to the server was lost, and the answer cannot be picked up again: {error.message}",
        KEPT,
    )
