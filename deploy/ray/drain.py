"""Finds out when Ray begins to drain a replica, which Ray tells no deployment."""

import asyncio

from ray._private.worker import global_worker

_POLL_S = 0.25


async def drain_begins() -> None:
    """Returns when the replica in this process is being drained: it gets no new requests, and ends when its
    open ones have ended, or after `graceful_shutdown_timeout_s`.

    Ray 2.60 calls a deployment only after its last request has ended, so this looks at Ray's own flag.
    """
    replicas = [actor._replica_impl for actor in global_worker.actors.values()]
    while not any(replica._shutting_down for replica in replicas):
        await asyncio.sleep(_POLL_S)
