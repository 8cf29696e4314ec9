"""How long one waits for another process before taking its place.

A time-out that is always the same is too short somewhere: where processes are further from each
other than that, or take longer to take over, they would take each other's place again and again,
and nobody would ever get to work.  So patience grows while that happens, and is as short as before
once it was seen that the other one answers sooner.
"""

from __future__ import annotations

MOST = 16
"""Patience grows to so many times what it was at first."""


class Patience:
    """One process's, with whoever has the place that it would take.

    Args:
        least_s: how long it is at first, and never shorter.
        questions: how many unanswered questions, one after the other, it takes to run out.

    Attributes:
        seconds: how long it is now.
    """

    def __init__(self, least_s: float, questions: int) -> None:
        self.seconds = least_s
        self._least_s = least_s
        self._questions = questions

    @property
    def question_s(self) -> float:
        """How long one question may go unanswered."""
        return self.seconds / self._questions

    def answered(self, after_s: float) -> None:
        """A question was answered after so long: the next ones have twice the time."""
        wanted_s = max(self._least_s, 2 * self._questions * after_s)
        self.seconds = min(MOST * self._least_s, wanted_s)

    def ran_out(self) -> None:
        """Somebody lost patience, and another one has the place, or takes it."""
        self.seconds = min(MOST * self._least_s, 2 * self.seconds)
