"""Writes cli/REFERENCE.md, with every command and option, from the commands themselves."""

import inspect
import re

import click
from folders import ROOT

from regime_proto.cli.command import options_of
from regime_proto.cli.main import main

PATH = ROOT / "cli/REFERENCE.md"

KINDS = {"path": "A path.", "place": "A path, or a URL that fsspec opens.", "text": "A name."}

BRACKETS = str.maketrans("", "", "[]")

HEAD = """\
# The commands of `regime`

Every command with its arguments, options and defaults; `regime COMMAND --help` shows the same text. [The command
line](../docs/command_line.md) explains what all commands share.
[The trajectory format](../schema/FORMAT.md#rules) lists the rules that `validate` checks.

<!-- Written by `make reference` from the commands themselves. -->

Every option can be set by the environment variable listed below it. Set a flag to 1 or 0. For an option that may be
repeated, separate the values by spaces. Options on the command line override variables.

Exit codes, unless a command lists its own: 0 done; 1 an error that the message says how to fix; 2 wrong usage;
130 interrupted by Ctrl-C.
"""


def reference():
    """Return the reference, in Markdown."""
    return "\n".join([HEAD, *(section(main.commands[name]) for name in sorted(main.commands))])


def section(command):
    context = click.Context(command, info_name=f"regime {command.name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## regime {command.name}", f"    {usage}", *map(paragraph, inspect.cleandoc(command.help).split("\n\n"))]
    return "\n\n".join([*parts, table(command, context)]) + "\n"


def paragraph(text):
    """Return a paragraph of help; examples become code blocks."""
    title, colon, rest = text.partition(":")
    if not (colon and title in ("Example", "For example")):
        return as_text(text)
    return "\n".join(f"    {line.strip()}" for line in rest.strip().splitlines())


def table(command, context):
    rows = ["| argument, option, variable | default | meaning |", "|---|---|---|"]
    for argument in command.params:
        if isinstance(argument, click.Argument):
            need = "required" if argument.required else ""
            rows.append(
                f"| `{argument.make_metavar(context).translate(BRACKETS)}` | {need} | {KINDS[argument.type.name]} |"
            )
    for option in options_of(command):
        names = ", ".join(sorted(option.opts, key=len))
        metavar = "" if option.is_flag else f" {option.make_metavar(context)}"
        meaning = option.help + " May be repeated." * (option.multiple and "May be repeated" not in option.help)
        cells = (f"`{names}{metavar}`<br>`{option.envvar}`", default(option), as_text(meaning))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def as_text(text):
    """Return text whose signs are no Markdown: a group `(?P<epoch>…)` is no tag."""
    return re.sub(r"[<*]", r"\\\g<0>", text)


def default(option):
    if option.required:
        return "required"
    return f"`{option.default}`" if option.show_default else ""


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
