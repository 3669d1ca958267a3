"""Sets the size of the benchmark: token counts, users and repetitions, for a full and for a quick run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    tokens: int  # of a single reply
    repetitions: int
    message_tokens: int  # of a short message
    users: tuple[int, ...]
    user_turns: int
    user_message_tokens: int
    user_tokens: int  # of each user's replies
    history_tokens: int  # before the last turn, or fewer if the context is shorter
    history_reply_tokens: int
    long_tokens: int  # of the long prompt, or fewer if the context is shorter
    background_streams: int  # short conversations that run beside the long prompt
    is_small: bool  # whether small models replace those of real shapes

    limit_s: float = 600  # for each measurement


FULL = Plan(
    tokens=64,
    repetitions=3,
    message_tokens=60,
    users=(8, 32),
    user_turns=2,
    user_message_tokens=130,
    user_tokens=32,
    history_tokens=2000,
    history_reply_tokens=32,
    long_tokens=4000,
    background_streams=4,
    is_small=False,
)
QUICK = Plan(
    tokens=16,
    repetitions=1,
    message_tokens=20,
    users=(8, 32),
    user_turns=2,
    user_message_tokens=20,
    user_tokens=12,
    history_tokens=200,
    history_reply_tokens=8,
    long_tokens=400,
    background_streams=4,
    is_small=True,
    limit_s=60,
)
