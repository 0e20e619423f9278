"""The reference of the commands, and their help."""

import re

import click
import pytest
from click.testing import CliRunner
from reference import PATH, reference

from regime_proto.cli import options
from regime_proto.cli.command import Command, in_capitals, long_name, options_of
from regime_proto.cli.main import main


def test_the_reference_is_that_of_the_commands():
    assert PATH.read_text(encoding="utf-8") == reference(), "run make reference"


def test_every_command_and_option_stands_in_the_reference():
    for name, command in main.commands.items():
        _, _, after = reference().partition(f"## regime {name}\n")
        section, _, _ = after.partition("\n## ")
        assert f"    regime {name} [OPTIONS]" in section
        for option in options_of(command):
            assert f"`REGIME_{in_capitals(name)}_{in_capitals(long_name(option))}`" in section


def test_text_of_the_reference_is_no_markdown():
    assert r"(?P\<epoch>" in reference()
    assert r"NAME@step\*'" in reference()


def test_every_command_has_an_example_and_every_option_help():
    for name, command in main.commands.items():
        assert re.search(rf"\n\n *(Example|For example):\s+regime {name}\b", command.help), name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


def test_every_command_has_the_manners_of_the_others():
    for name, command in main.commands.items():
        assert isinstance(command, Command), f"{name}: make it with cli.command.command"
        for option in options_of(command):
            assert not isinstance(option.type, click.Choice) or isinstance(option.type, options.Choice), name


@pytest.mark.parametrize("name", [name for name, command in main.commands.items() if "For example:" in command.help])
def test_examples_stand_one_below_the_other(name):
    shown = CliRunner().invoke(main, [name, "--help"], prog_name="regime").output
    assert re.search(rf"\n +\n For example: +\n(     regime {name} \S.*\n){{2,}} +\n", shown), shown
