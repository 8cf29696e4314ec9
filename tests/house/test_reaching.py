"""What campaigns reach is counted, and what never came up is told."""

import pytest

import reaching

SOMETIMES = reaching.tool().SOMETIMES


@pytest.mark.parametrize("name", SOMETIMES)
def test_a_line_that_must_come_up_has_a_counter(name):
    function, code = reaching._counted(name)
    assert any(name in str(constant) for constant in code.co_consts)
    assert name not in str(function.__code__.co_consts)
    assert code.co_freevars == function.__code__.co_freevars
    assert SOMETIMES[name][0] in reaching.WHERE


def test_only_a_campaign_that_passed_whole_must_have_reached_its_lines(monkeypatch):
    mine = [name for name, (world, *_) in SOMETIMES.items() if world == "logs"]
    _, count = reaching.WHERE["logs"]
    monkeypatch.setattr(reaching, "REACHED", {mine[0]: 1})
    monkeypatch.setattr(reaching, "_passed", {"logs": count - 1})
    assert reaching.never() == []
    monkeypatch.setattr(reaching, "_passed", {"logs": count})
    assert reaching.never() == mine[1:] != []
