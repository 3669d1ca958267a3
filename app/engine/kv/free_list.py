"""Owns which positions of a stretch of memory are free. Knows numbers only."""

from bisect import bisect_left


class FreeList:
    """Free ranges `[start, stop)` in order, none of them touching the next."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []

    @property
    def total(self) -> int:
        return sum(stop - start for start, stop in self._free)

    def give(self, start: int, length: int) -> None:
        """These positions are free from now on."""
        if length == 0:
            return
        index = bisect_left(self._free, (start, start))
        stop = start + length
        assert index == 0 or self._free[index - 1][1] <= start, "given twice"
        assert index == len(self._free) or stop <= self._free[index][0], "given twice"
        if index < len(self._free) and self._free[index][0] == stop:
            stop = self._free.pop(index)[1]
        if index > 0 and self._free[index - 1][1] == start:
            index -= 1
            start = self._free.pop(index)[0]
        self._free.insert(index, (start, stop))

    def take(self, length: int) -> int | None:
        """The first of so many positions in a row; None where there are none."""
        for start, stop in self._free:
            if stop - start >= length:
                self._cut(start, length)
                return start
        return None

    def take_at(self, start: int, length: int) -> bool:
        """Whether exactly these positions were free; they are not any more."""
        is_free = any(begin == start and stop - begin >= length for begin, stop in self._free)
        if is_free:
            self._cut(start, length)
        return is_free

    def _cut(self, start: int, length: int) -> None:
        index = bisect_left(self._free, (start, start))
        stop = self._free.pop(index)[1]
        self.give(start + length, stop - start - length)
