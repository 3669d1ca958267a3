"""Sizes of passes: few, close together, and the same whether a pass is cut or padded to them."""

from app.engine.scheduling.pass_size import cut, padded


def test_sizes_are_few() -> None:
    assert len({padded(rows) for rows in range(1, 513)}) == 28


def test_padded_adds_few_rows_and_keeps_a_size() -> None:
    for rows in range(1, 2000):
        size = padded(rows)
        assert rows <= size < max(rows * 1.25, rows + 4), rows
        assert padded(size) == cut(size) == size, rows


def test_cut_gives_the_next_smaller_size() -> None:
    for rows in range(4, 2000):
        size = cut(rows)
        assert size <= rows < padded(size + 1), rows
        assert padded(size) == size, rows


def test_cut_leaves_less_than_a_size() -> None:
    assert [cut(rows) for rows in (1, 2, 3)] == [1, 2, 3]
