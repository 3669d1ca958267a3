"""Chooses the replica of a request: one that has its model, and of those the one of its conversation."""

from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica

from deploy.ray.routing import by_model, has_model

_NODES = 500  # of each replica on the ring: shares differ by a few per cent
_ALL = 1_000  # more than a deployment has replicas


class ModelSessionRouter(ConsistentHashRouter):
    """Ranks the replicas by their place on the ring of the session, those with the request's model first.

    Ray's router of sessions ignores models, and its routers of models ignore sessions. A model that no
    replica has loaded is placed on the ring like a session, so that all requests for it reach the same
    replica, and only that one loads it. A replica that has as many requests as it may have is passed over.
    """

    def initialize_state(self, **kwargs: Any) -> None:  # Any: as Ray's
        super().initialize_state(num_virtual_nodes=_NODES, num_fallback_replicas=_ALL, **kwargs)

    def _routing_key(self, pending_request: PendingRequest | None) -> str | None:
        model = _model_of(pending_request)
        if model and not any(has_model(replica, model) for replica in self.curr_replicas.values()):
            return model
        key: str | None = super()._routing_key(pending_request)
        return key

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See RequestRouter."""
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        model = _model_of(pending_request)
        return by_model(ranks, model) if model else ranks


def _model_of(request: PendingRequest | None) -> str:
    return "" if request is None else request.metadata.multiplexed_model_id
