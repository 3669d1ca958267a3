"""Refuses a request whose caller has sent too many in the last minute, and reports in each reply the rest.

The headers are those of OpenAI's API: `x-ratelimit-limit-requests`, `-remaining-requests`, `-reset-requests`,
and the same for tokens. There are none for a limit that is off.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.api.middleware import OWNER
from app.api.paths import RUNNING_TURNS_PATH, path_below_prefix
from app.core.errors import RateLimitExceeded
from app.models.key_limits import Budget, KeyLimits


class RateLimit:
    """Counts every request that has an owner, before its body is read. Open paths have none.

    The page's polls for running turns do not count: they would use up the limit of somebody who only reads.
    One with a body counts, because a body costs more to read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = scope.get(OWNER)
        if owner is None or _asks_which_turns_run(scope):
            return await self.app(scope, receive, send)
        limits: KeyLimits = scope["app"].state.services.limits

        reply = _BudgetSend(send, limits, owner)
        try:
            limits.count_request(owner)
        except RateLimitExceeded as error:
            return await error_response(error)(scope, receive, reply)
        await self.app(scope, receive, reply)


def _asks_which_turns_run(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return (
        scope["method"] in ("GET", "HEAD") and path_below_prefix(scope) == RUNNING_TURNS_PATH and not has_body
    )


class _BudgetSend:
    """The `send` of one request. Adds the caller's current budgets to the headers."""

    def __init__(self, send: Send, limits: KeyLimits, owner: str) -> None:
        self.send = send
        self.limits = limits
        self.owner = owner

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_headers(self.limits.budgets(self.owner)))
        await self.send(message)


def _headers(budgets: Iterable[Budget]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for budget in budgets:
        headers[f"x-ratelimit-limit-{budget.resource}"] = str(budget.limit)
        headers[f"x-ratelimit-remaining-{budget.resource}"] = str(budget.remaining)
        headers[f"x-ratelimit-reset-{budget.resource}"] = f"{budget.reset_s}s"
    return headers
