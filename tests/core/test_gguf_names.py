from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from app.core.gguf_names import gguf_among, gguf_by_kind, gguf_parts


def test_model_in_parts_is_known_by_the_name_of_the_first() -> None:
    first, second = (f"m-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2))
    assert gguf_among([second, first], "Q4_K_M") == first
    assert gguf_by_kind([second, first, "m-Q8_0.gguf"]) == {"Q4_K_M": first, "Q8_0": "m-Q8_0.gguf"}


def test_gguf_kinds_are_names_that_find_every_file() -> None:
    names = ["F16/model.gguf", "Q8_0/model.gguf", "big-Q4_K_M.gguf", "other-Q4_K_M.gguf", "mmproj-F16.gguf"]
    kinds = gguf_by_kind(names)
    assert list(kinds) == ["Q4_K_M", "Q8_0/model", "model", "other-Q4_K_M"]
    assert sorted(kinds.values()) == names[:4]
    assert gguf_among([".gguf", "-00001-of-00002.gguf"], "Q4_K_M") is None  # names without a stem


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Q4_K_XL", "q-UD-Q4_K_XL.gguf"),
        ("ud-q4_k_xl", "q-UD-Q4_K_XL.gguf"),
        ("IQ2_M", "q-IQ2_M.gguf"),
        ("UD-IQ2_M", "q-UD-IQ2_M.gguf"),
        ("i1-Q6_K", "q.i1-Q6_K.gguf"),
        ("K_XL", None),
        ("", None),
    ],
)
def test_gguf_file_is_found_by_the_end_of_its_name(wanted: str, found: str | None) -> None:
    names = ["q-UD-Q4_K_XL.gguf", "q-IQ2_M.gguf", "q-UD-IQ2_M.gguf", "q.i1-Q6_K.gguf", "q-.gguf"]
    assert gguf_among(names, wanted) == found
    assert list(gguf_by_kind(names)) == ["IQ2_M", "Q4_K_XL", "Q6_K", "UD-IQ2_M", "q-"]


_STEMS = st.text("aQ4_.-", max_size=6)


@given(st.lists(_STEMS.map(lambda stem: f"{stem}.gguf"), unique=True), _STEMS)
def test_gguf_kinds_find_the_files_that_they_name(names: list[str], wanted: str) -> None:
    kinds = gguf_by_kind(names)
    assert all(gguf_among(names, kind) == path for kind, path in kinds.items())
    assert {name.lower() for name in names} == {path.lower() for path in kinds.values()}
    assert (found := gguf_among(names, wanted)) is None or found in names


@pytest.mark.parametrize("count", ["00000", "99999"])
def test_gguf_file_with_an_impossible_number_of_parts_is_whole(count: str) -> None:
    path = Path(f"x-00001-of-{count}.gguf")
    assert gguf_parts(path) == [path]
