import random

import pytest

from app.engine.replies.stop_strings import StopStrings, partial_match_length


def reference_stop(text: str, stops: list[str]) -> str | None:
    """The stop string that is complete first, the longest of those."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return max(complete, key=len)
    return None


def reference_cut(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first, the longest of those."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@pytest.mark.parametrize("seed", range(200))
def test_stop_strings_any_split_gives_the_same_cut(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choices("ab\n", k=draw.randint(0, 30)))
    stops = ["".join(draw.choices("ab\n", k=draw.randint(1, 5))) for _ in range(draw.randint(0, 3))]
    shown, position, filter_ = "", 0, StopStrings(stops)
    while position < len(text):
        step = draw.randint(1, 6)
        shown += filter_.push(text[position : position + step])
        assert reference_cut(text, stops).startswith(shown)
        position += step
    assert shown + filter_.flush() == reference_cut(text, stops)
    assert filter_.matched == reference_stop(text, stops)
    assert filter_.found == (reference_cut(text, stops) != text or any(text.endswith(s) for s in stops))


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 0), ("xyz", 0), ("xa", 1), ("xab", 2), ("aab", 2), ("abc", 0), ("xabc", 0), ("ab?", 1), ("??", 1)],
)
def test_whole_mark_is_no_partial_match(text: str, length: int) -> None:
    assert partial_match_length(text, ("abc", "?!")) == length
    assert partial_match_length(text, ()) == 0
