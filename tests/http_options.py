"""The options of requests to the servers that tests start."""

from typing import TypedDict

from tests.waiting import LIMIT_S


class HttpOptions(TypedDict):
    """Keyword arguments of httpx's functions and clients."""

    trust_env: bool
    verify: bool
    timeout: float


# There is no proxy, no TLS (its context is slow to build), and a busy machine may take long to answer.
LOCAL = HttpOptions(trust_env=False, verify=False, timeout=LIMIT_S)
