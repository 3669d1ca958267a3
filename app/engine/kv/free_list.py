"""Keeps track of the free positions of a pool."""

from bisect import bisect_left


class FreeList:
    """Free ranges `[start, stop)` in order. Ranges that touch are merged."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.total = 0  # free positions

    def give(self, start: int, length: int) -> None:
        """Mark these positions as free. None of them may be free already."""
        if length == 0:
            return
        index = bisect_left(self._ranges, (start, start))
        stop = start + length
        assert index == 0 or self._ranges[index - 1][1] <= start, "given twice"
        assert index == len(self._ranges) or stop <= self._ranges[index][0], "given twice"
        if index < len(self._ranges) and self._ranges[index][0] == stop:
            stop = self._ranges.pop(index)[1]
        if index > 0 and self._ranges[index - 1][1] == start:
            index -= 1
            start = self._ranges.pop(index)[0]
        self._ranges.insert(index, (start, stop))
        self.total += length

    def take(self, length: int) -> int | None:
        """Take `length` positions from the first range that is long enough. Returns their start, or None."""
        for index, (start, stop) in enumerate(self._ranges):
            if stop - start >= length:
                self._cut(index, length)
                return start
        return None

    def take_at(self, start: int, length: int) -> bool:
        """Take `length` positions from `start` on, if a free range begins there and is long enough.

        Returns whether it took them.
        """
        index = bisect_left(self._ranges, (start, start))
        if index == len(self._ranges) or self._ranges[index][0] != start:
            return False
        if self._ranges[index][1] - start < length:
            return False
        self._cut(index, length)
        return True

    def _cut(self, index: int, length: int) -> None:
        """Remove the first `length` positions from a range."""
        start, stop = self._ranges[index]
        self.total -= length
        if stop - start == length:
            del self._ranges[index]
        else:
            self._ranges[index] = (start + length, stop)
