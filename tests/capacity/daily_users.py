"""Works out what numbers of daily users need, from a density that was simulated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.capacity.sizing import Sized

_DAY_S, _HOUR_S = 86_400, 3600


@dataclass(frozen=True, slots=True)
class DailyUse:
    """What a user does in a day. `peak` is the busiest hour's load over the mean."""

    turns: float = 10
    peak: float = 3

    def peak_turns_per_s(self, users: int) -> float:
        return users * self.turns * self.peak / _DAY_S


@dataclass(frozen=True, slots=True)
class Need:
    """What the users need in the busiest hour."""

    users: int
    turns_per_s: float
    conversations: int  # at a time
    replicas: int
    memory_bytes: int  # of all replicas: weights, and the most keys and values
    reply_tokens_per_s: float
    database_cores: float
    price_per_million: float | None  # of the tokens of a whole day's replies


def needs(
    density: Sized, users: Sequence[int], use: DailyUse, append_s: float, price_per_hour: float | None
) -> list[Need]:
    """Returns the needs of these numbers of users, each with as many replicas as the density says.

    `append_s` is the processor time of storing a turn. The price is that of all replicas for 24 hours.
    """
    return [_need(density, count, use, append_s, price_per_hour) for count in users]


def _need(density: Sized, users: int, use: DailyUse, append_s: float, price_per_hour: float | None) -> Need:
    figures, scenario = density.outcome.figures, density.scenario
    turns_per_s = use.peak_turns_per_s(users)
    share = turns_per_s / (figures.turns / figures.seconds)  # of the load that was simulated
    replicas = max(1, math.ceil(share * scenario.replicas))
    reply_tokens_per_s = share * figures.reply_tokens_per_s
    price = None
    if price_per_hour is not None:
        price = 1e6 * price_per_hour * replicas / (reply_tokens_per_s / use.peak * _HOUR_S)
    return Need(
        users=users,
        turns_per_s=turns_per_s,
        conversations=math.ceil(share * scenario.workload.conversations),
        replicas=replicas,
        memory_bytes=replicas * density.memory_bytes,
        reply_tokens_per_s=reply_tokens_per_s,
        database_cores=turns_per_s * append_s,
        price_per_million=price,
    )
