"""The window's room for prompt and reply, compared with a search that tries every number of turns."""

from hypothesis import given, strategies as st

from app.engine.tokenization.context_window import ContextWindow, Prompt

lengths = st.lists(st.integers(0, 120), min_size=1, max_size=12).map(lambda found: sorted(found)[::-1])
wanted_tokens = st.none() | st.integers(1, 200)


def window(tokens: int) -> ContextWindow:
    return ContextWindow(tokens, max_characters=1000)


def prompt(length: int, characters: int = 0) -> Prompt:
    return Prompt([0] * length, max_tokens=0, characters=characters)


def reserve(tokens: int, wanted: int | None) -> int:
    quarter = max(tokens // 4, 1)
    return quarter if wanted is None else min(quarter, wanted)


@given(tokens=st.integers(1, 200), lengths=lengths, wanted=wanted_tokens)
def test_fit_turns_omits_the_fewest_turns(tokens: int, lengths: list[int], wanted: int | None) -> None:
    """`lengths[n]` is the length of the prompt without n turns."""
    rendered: list[int] = []

    def render(omitted: int) -> Prompt:
        rendered.append(omitted)
        return prompt(lengths[omitted])

    turns = len(lengths) - 1
    found = window(tokens).fit_turns(render, turns, wanted)
    room = tokens - reserve(tokens, wanted)
    fitting = [length for length in lengths if length <= room]
    assert len(found.ids) == (fitting[0] if fitting else lengths[-1])
    assert len(set(rendered)) == len(rendered) <= 2 + turns.bit_length()


@given(tokens=st.integers(1, 200), length=st.integers(0, 250), wanted=wanted_tokens)
def test_reply_takes_what_the_prompt_leaves(tokens: int, length: int, wanted: int | None) -> None:
    left = window(tokens).reply_tokens(prompt(length), wanted)
    assert left == min(max(tokens - length, 0), 10**6 if wanted is None else wanted)


def test_prompt_fits_up_to_the_limit_if_it_was_tokenised() -> None:
    assert prompt(5).fits(5) and prompt(0).fits(0)
    assert not prompt(6).fits(5)
    assert not prompt(0, characters=1).fits(5)
