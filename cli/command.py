"""What all commands share: environment variables, and usage errors in one line."""

import os
from collections.abc import Callable
from typing import Any

import rich_click as click
from click.core import ParameterSource

from regime_proto.cli.console import warn
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import did_you_mean

PREFIX = "REGIME"


class Command(click.RichCommand):
    """A command whose options can be set by environment variables, ``REGIME_<COMMAND>_<OPTION>``."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]
        for option in options_of(self):
            option.envvar = f"{_prefix(self)}{in_capitals(long_name(option))}"

    def invoke(self, context: click.Context) -> object:
        """Run the command; an error caused by an environment variable names the variable."""
        if not context.params.get("quiet"):
            _warn_of_unknown(self)
        try:
            return super().invoke(context)
        except RegimeError as error:
            error.args = (f"{error}{_set_by(context, str(error))}",)
            raise


def command(function: Callable[..., Any]) -> Command:
    """Turn a function into a command; use instead of `click.command`."""
    return click.command(cls=Command)(function)


def options_of(command: click.Command) -> list[click.Option]:
    """Return the options of a command, without ``--help``."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def long_name(option: click.Option) -> str:
    """Return the long spelling of an option, such as ``--sample-units``."""
    return max(option.opts, key=len)


def in_capitals(name: str) -> str:
    """Return a name as spelled in an environment variable."""
    return name.lstrip("-").replace("-", "_").upper()


def _prefix(command: click.Command) -> str:
    return f"{PREFIX}_{in_capitals(command.name or '')}_"


def _warn_of_unknown(command: click.Command) -> None:
    known = [str(option.envvar) for option in options_of(command)]
    for name in sorted(os.environ):
        if name.startswith(_prefix(command)) and name not in known:
            warn(f"{name}: regime {command.name} has no such option{did_you_mean(name, known)}")


def usage_line(error: click.UsageError) -> str:
    """Return a usage error in one line, with the nearest valid name and a pointer to the help."""
    context = error.ctx
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and context is not None:
        names = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        message = f"no option {error.option_name}{did_you_mean(error.option_name, names)}"
    path = PREFIX.lower() if context is None else context.command_path
    return f"{message}{_set_by(context, message)} (see {path} --help)"


def _set_by(context: click.Context | None, message: str) -> str:
    """Return `` (set by VARIABLE)`` for the environment variables that caused a message; empty if none did."""
    if context is None:
        return ""
    behind = [str(option.envvar) for option in options_of(context.command) if _is_behind(option, context, message)]
    return f" (set by {', '.join(behind)})" if behind else ""


def _is_behind(option: click.Option, context: click.Context, message: str) -> bool:
    """Whether an option was set by its variable and a message names the option or its value."""
    if context.get_parameter_source(str(option.name)) is not ParameterSource.ENVIRONMENT:
        return False
    # A word such as "cpu" may be in a message for other reasons; click names the option if its value is wrong.
    is_free = not option.is_flag and not isinstance(option.type, click.Choice | click.IntRange | click.FloatRange)
    return long_name(option) in message or (is_free and os.environ[str(option.envvar)] in message)
