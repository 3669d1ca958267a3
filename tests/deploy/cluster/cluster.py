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

    def drain(self) -> None:
        """Sends one replica no more requests, ends it in order, and returns when it has ended."""

    def add(self) -> None:
        """Starts a replica, and returns when requests are sent to it."""


def kill_one(cluster: Cluster) -> None:
    cluster.kill(cluster.replicas[0])


def drain_one(cluster: Cluster) -> None:
    cluster.drain()


def add_one(cluster: Cluster) -> None:
    cluster.add()
