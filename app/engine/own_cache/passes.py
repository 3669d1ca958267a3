"""Decides which sequences of a step share a pass of the model.

Sequences that decode share one if their caches can be joined, and so do prompts of similar lengths.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from app.engine.scheduling.sequence import Chunk

_MOST_PADDING, _LITTLE_PADDING = 0.25, 512  # share of the ids of a joint cache, and ids that never matter
_PROMPT_PADDING = 16  # ids to a prompt; reading more would take longer than a pass of its own


class Joining(Enum):
    """Whether the caches of an architecture can be joined, and whether shorter ones must be padded."""

    NEVER = "never"
    PADDED = "padded"
    UNPADDED = "unpadded"  # there are only states, which take the same room for any length


@dataclass(frozen=True, slots=True)
class PassLimits:
    """The most ids of `padding` in the joint caches of a step, and the most `rows` of a pass over prompts."""

    padding: int = sys.maxsize
    rows: int = sys.maxsize


NO_LIMITS = PassLimits()


def passes_of(
    chunks: Sequence[Chunk], joining: Joining, joins_prompts: bool, limits: PassLimits
) -> list[list[int]]:
    """Returns the places of the chunks that each pass reads."""
    alone: list[int] = []
    prompts: list[int] = []
    continued: dict[int, list[int]] = {}  # by the number of ids: only new prompts can be padded
    for place, chunk in enumerate(chunks):
        if not _may_join(chunk, joining, joins_prompts):
            alone.append(place)
        elif chunk.sequence.computed == 0:
            prompts.append(place)
        else:
            continued.setdefault(chunk.count, []).append(place)
    groups = groups_of_prompts([chunks[place].count for place in prompts], limits)
    passes = [*([place] for place in alone), *_places(prompts, groups)]
    for places in continued.values():
        padding = limits.padding - padding_in(chunks, passes)
        groups = groups_to_join([_length(chunks[place]) for place in places], joining, padding)
        passes += _places(places, groups)
    return passes


def padding_in(chunks: Sequence[Chunk], passes: Sequence[Sequence[int]]) -> int:
    """Returns how many ids of padding the joint caches of the passes have."""
    return sum(padding_of([_length(chunks[place]) for place in places]) for places in passes)


def padding_of(lengths: Sequence[int]) -> int:
    """Returns how many ids of padding a joint cache of sequences of these lengths has."""
    return max(lengths) * len(lengths) - sum(lengths)


def groups_to_join(lengths: Sequence[int], joining: Joining, most_padding: int) -> list[list[int]]:
    """Returns groups of places in `lengths` whose caches may be joined.

    Padding takes memory and time, so they have similar lengths, and at most `most_padding` ids in all.
    """
    match joining:
        case Joining.NEVER:
            return [[place] for place in range(len(lengths))]
        case Joining.UNPADDED:
            return [list(range(len(lengths)))] if lengths else []
        case Joining.PADDED:
            return _groups_of_similar(lengths, most_padding)


def groups_of_prompts(lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
    """Returns groups of places in `lengths`, longest first, whose prompts one padded pass reads."""
    groups: list[list[int]] = []
    left = limits.padding
    for place in _longest_first(lengths):
        longest = lengths[groups[-1][0]] if groups else 0
        more = longest - lengths[place]
        has_room = bool(groups) and (len(groups[-1]) + 1) * longest <= limits.rows
        if has_room and more <= min(_PROMPT_PADDING, left):
            groups[-1].append(place)
            left -= more
        else:
            groups.append([place])
    return groups


def _may_join(chunk: Chunk, joining: Joining, joins_prompts: bool) -> bool:
    if joining is Joining.NEVER:
        return False
    is_decode = chunk.count == 1 and chunk.sequence.computed > 0
    return is_decode or (joins_prompts and chunk.logits_rows <= 1)  # all would have as many rows of logits


def _places(places: Sequence[int], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[places[each] for each in group] for group in groups]


def _length(chunk: Chunk) -> int:
    """Returns the length that decides about padding: of the cache, or of the prompt if there is none yet."""
    return chunk.sequence.computed or chunk.count


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: -lengths[place])


def _groups_of_similar(lengths: Sequence[int], most_padding: int) -> list[list[int]]:
    groups: list[list[int]] = []
    ids, padding, left = 0, 0, most_padding
    for place in _longest_first(lengths):
        length = lengths[place]
        more = lengths[groups[-1][0]] - length if groups else 0
        is_little = padding + more <= (ids + length) * _MOST_PADDING + _LITTLE_PADDING
        if groups and is_little and more <= left:
            groups[-1].append(place)
            ids, padding, left = ids + length, padding + more, left - more
        else:
            groups.append([place])
            ids, padding = length, 0
    return groups
