"""Texts are encoded once in each scope, and the oldest are forgotten."""

import pytest
from hypothesis import given, strategies as st

from app.engine.tokenization.recent_texts import RecentTexts

TEXTS = st.text("ab", min_size=1, max_size=4)


class CountingEncoder:
    """Encodes a text as the code points of its characters."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.encoded += texts
        return [list(map(ord, text)) for text in texts]


def test_text_is_encoded_once_in_each_scope() -> None:
    encode = CountingEncoder()
    recent = RecentTexts(encode)
    for scope in ("one", "one", "another"):
        assert [list(ids) for ids in recent.encode(["ab", "c", "ab"], scope)] == [[97, 98], [99], [97, 98]]
    assert encode.encoded == ["ab", "c", "ab", "c"]


def test_text_that_was_not_used_for_longest_is_forgotten() -> None:
    encode = CountingEncoder()
    recent = RecentTexts(encode, most_size=140)
    for text in ("aaa", "bbb", "aaa", "ccc", "aaa", "bbb"):
        recent.encode([text], "")
    assert encode.encoded == ["aaa", "bbb", "ccc", "bbb"]


@pytest.mark.parametrize("ids", [[0], []])
def test_texts_that_take_few_ids_do_not_stay_for_ever(ids: list[int]) -> None:
    encoded: list[str] = []

    def encode(texts: list[str]) -> list[list[int]]:
        encoded.extend(texts)
        return [ids for _ in texts]

    recent = RecentTexts(encode, most_size=2000)
    texts = ["first", *("x" * 100 + str(number) for number in range(20)), "first"]
    for text in texts:
        recent.encode([text], "")
    assert encoded == texts


@given(
    calls=st.lists(st.tuples(st.lists(TEXTS), st.sampled_from(["one", "two"]))), most_size=st.integers(0, 300)
)
def test_ids_are_right_however_few_texts_are_kept(calls: list[tuple[list[str], str]], most_size: int) -> None:
    recent = RecentTexts(CountingEncoder(), most_size)
    for texts, scope in calls:
        assert [list(ids) for ids in recent.encode(texts, scope)] == [list(map(ord, text)) for text in texts]
