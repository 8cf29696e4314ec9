"""How long one waits for another process: what makes it longer, what shorter, and within what."""

import random

import pytest

from wormspace.rpc.patience import MOST, Patience


@pytest.mark.parametrize("questions", [2, 5])
def test_it_begins_with_the_least_and_divides_it_among_questions(questions):
    patience = Patience(3.0, questions)
    assert (patience.seconds, patience.question_s) == (3.0, 3.0 / questions)


def test_each_time_that_it_runs_out_it_is_twice_as_long_up_to_a_limit():
    patience = Patience(3.0, 5)
    found = []
    for _ in range(6):
        patience.ran_out()
        found.append(patience.seconds)
    assert found == [6.0, 12.0, 24.0, 48.0, 48.0, 48.0]
    assert patience.question_s == 48.0 / 5


@pytest.mark.parametrize(
    ("after_s", "seconds"), [(0.0, 3.0), (0.3, 3.0), (0.5, 5.0), (4.8, 48.0), (5.0, 48.0)]
)
def test_an_answer_makes_it_as_long_as_questions_of_twice_that_time_take(after_s, seconds):
    for before in (0, 1, 9):
        patience = Patience(3.0, 5)
        for _ in range(before):
            patience.ran_out()
        patience.answered(after_s)
        assert patience.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("seed", range(9))
def test_it_is_never_shorter_than_at_first_nor_too_long(seed):
    rng = random.Random(seed)
    least_s = 10 ** rng.uniform(-3, 3)
    patience = Patience(least_s, rng.randint(1, 9))
    for _ in range(30):
        if rng.random() < 0.5:
            patience.ran_out()
        else:
            patience.answered(least_s * 10 ** rng.uniform(-6, 6))
        assert least_s <= patience.seconds <= MOST * least_s
