"""Defines a cluster: several servers on one database, behind one address."""

from collections.abc import Sequence
from typing import Protocol


class Cluster(Protocol):
    """What the tests need of a cluster. Replicas have names, which are not used again."""

    @property
    def url(self) -> str:
        """The address that clients use."""

    @property
    def replicas(self) -> Sequence[str]:
        """The names of the replicas that requests are sent to."""

    def kill(self, replica: str) -> None:
        """Kills the replica with SIGKILL. What sends requests to it is not told."""

    def drain(self, replica: str) -> None:
        """Sends the replica no more requests, ends it with SIGTERM, and returns when it has ended."""

    def add(self) -> str:
        """Starts a replica, and returns its name when requests are sent to it."""
