"""What a simulated or a real run observed, turn by turn, and the figures computed from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class TurnRecord:
    """One turn, in seconds since the start of the run. A time that has not come is None."""

    user: int
    began_s: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    first_token_s: float | None = None
    ended_s: float | None = None
    is_refused: bool = False

    @property
    def wait_s(self) -> float:
        """The time to the first token."""
        assert self.first_token_s is not None
        return self.first_token_s - self.began_s


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the turns that began within `seconds`; of those that were refused only their number."""

    seconds: float
    turns: int
    refused: int
    first_token_p50_s: float
    first_token_p95_s: float
    gap_s: float  # mean time between tokens of one reply
    reply_tokens_per_s: float
    prompt_tokens_per_s: float
    cached_share: float  # of all prompt tokens, those of first turns included
    open_turns: float  # mean number, waiting or being answered


def percentile(values: Iterable[float], share: float) -> float:
    """Returns the value that `share` of the values do not exceed, or 0 without values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def figures(records: Sequence[TurnRecord], since_s: float, until_s: float) -> Figures:
    """Returns the figures of the turns that began within the given time and have ended."""
    begun = [record for record in records if since_s <= record.began_s < until_s]
    turns = [record for record in begun if record.ended_s is not None and not record.is_refused]
    seconds, prompts = until_s - since_s, sum(turn.prompt_tokens for turn in turns)
    open_s = sum(turn.ended_s - turn.began_s for turn in turns if turn.ended_s is not None)
    waits = [turn.wait_s for turn in turns]
    decoding_s = open_s - sum(waits)
    later_tokens = sum(turn.reply_tokens - 1 for turn in turns)
    return Figures(
        seconds=seconds,
        turns=len(turns),
        refused=sum(record.is_refused for record in begun),
        first_token_p50_s=percentile(waits, 0.5),
        first_token_p95_s=percentile(waits, 0.95),
        gap_s=decoding_s / max(later_tokens, 1),
        reply_tokens_per_s=sum(turn.reply_tokens for turn in turns) / seconds,
        prompt_tokens_per_s=prompts / seconds,
        cached_share=sum(turn.cached_tokens for turn in turns) / max(prompts, 1),
        open_turns=open_s / seconds,
    )
