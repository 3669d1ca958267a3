"""Defines the names of all sampling parameters, and the bounds of the numeric ones.

The wire models, the models file and the engine's check take their bounds from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from annotated_types import Interval


@dataclass(frozen=True, slots=True)
class Bounds(Interval):
    """The range of a number, from `ge`, or from above `gt`, to `le`. Pydantic reads it from `Annotated`."""

    gt: float | None = None
    ge: float | None = None
    le: float | None = None

    def __contains__(self, value: float) -> bool:
        """Returns whether the value is in the range. NaN never is."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.le is None or value <= self.le)
        )


MAX_TOKENS = Bounds(ge=1, le=1_000_000)
TEMPERATURE = Bounds(ge=0, le=2)
TOP_P = Bounds(gt=0, le=1)
TOP_K = Bounds(ge=0, le=1_000_000)
MIN_P = Bounds(ge=0, le=1)
REPETITION_PENALTY = Bounds(gt=0, le=10)
PRESENCE_PENALTY = Bounds(ge=-2, le=2)
FREQUENCY_PENALTY = Bounds(ge=-2, le=2)
SEED = Bounds(ge=0, le=2**63 - 1)
MIN_TOKENS = Bounds(ge=0, le=1_000_000)
TOP_LOGPROBS = Bounds(ge=0, le=20)
LOGIT_BIAS = Bounds(ge=-100, le=100)
TOKEN_ID = Bounds(ge=0, le=2**31 - 1)

MAX_BIASED_TOKENS = 1024
MAX_PROMPT_LOGPROBS = 200_000  # that one request reports; the server holds about 700 bytes for each
MAX_STOP_TOKENS = 128
MAX_BAD_WORDS = 128
MAX_WORD = 200  # characters of a stop string or a bad word

BOUNDS: Mapping[str, Bounds] = MappingProxyType(
    {
        "max_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "top_k": TOP_K,
        "min_p": MIN_P,
        "repetition_penalty": REPETITION_PENALTY,
        "presence_penalty": PRESENCE_PENALTY,
        "frequency_penalty": FREQUENCY_PENALTY,
        "seed": SEED,
        "min_tokens": MIN_TOKENS,
        "top_logprobs": TOP_LOGPROBS,
    }
)
