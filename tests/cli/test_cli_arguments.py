"""What is typed for a number is looked at: every option and argument of every command."""

import click
import pytest

from wormspace.cli.app import cli


def numbers(command, path=()):
    """Every option and argument that is a number, and where it is."""
    for parameter in command.params:
        if isinstance(parameter.type, click.types.FloatParamType | click.types.IntParamType):
            yield pytest.param(parameter, id=" ".join((*path, str(parameter.name))))
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            yield from numbers(found, (*path, name))


@pytest.mark.parametrize("parameter", [*numbers(cli)])
def test_what_is_no_number_of_that_kind_is_refused(parameter):
    is_float = isinstance(parameter.type, click.types.FloatParamType)
    for wrong in ("x", "", "nan", "inf", "-inf", "-1", "1e400", *([] if is_float else ["1.5"])):
        with pytest.raises(click.BadParameter):
            parameter.type.convert(wrong, parameter, None)


def test_there_are_such_options():
    assert len([*numbers(cli)]) > 15
