"""A trim point that somebody else moves at the same time: it counts only once it is set."""

from wormspace.log.trim_point import Place, TrimPoint


class RacedMark:
    """A mark that somebody else sets whenever it is about to be replaced, the first few times."""

    def __init__(self, others):
        self.number, self.value = -1, None
        self.others = list(others)

    async def get(self):
        return None if self.value is None else (self.number, self.value)

    async def replace(self, expected, value):
        if self.others:
            self.number, self.value = self.number + 1, self.others.pop(0)
        if expected != self.number:
            return None
        self.number, self.value = self.number + 1, value
        return self.number


async def test_a_trim_point_is_moved_however_often_somebody_else_was_first():
    mark = RacedMark([Place(1, 1), Place(2, 2)])
    trim_point = TrimPoint(mark)
    await trim_point.move(Place(5, 5))
    assert mark.value == trim_point.at == Place(5, 5)


async def test_a_trim_point_that_somebody_else_moved_further_stays_there():
    mark = RacedMark([Place(9, 9)])
    trim_point = TrimPoint(mark)
    await trim_point.move(Place(5, 5))
    assert mark.value == trim_point.at == Place(9, 9)
