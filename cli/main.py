"""The command `regime`. Heavy modules are imported only when a command runs, so that help is fast."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import Exit

from regime_proto import __version__
from regime_proto.cli.command import usage_line
from regime_proto.cli.commands import (
    analyze,
    check,
    compare,
    convert,
    demo,
    example,
    export,
    inspect,
    linearize,
    merge,
    plot,
    program,
    quantities,
    report,
    thin,
    validate,
)
from regime_proto.cli.console import show_error
from regime_proto.cli.interruption import TYPED
from regime_proto.runtime.progress import is_plain
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import cannot_open, did_you_mean

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"
click.rich_click.PADDING_HELPTEXT_FIRST_LINE = (0, 0, 1, 0)
click.rich_click.MAX_WIDTH = 100


class _Group(click.RichGroup):
    """Turns errors into one line and an exit code: 1 for errors that the user can fix, 2 for wrong usage."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> Any:
        click.rich_click.COLOR_SYSTEM = None if is_plain() else "auto"
        typed = list(args)
        with _usage_in_one_line():
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[TYPED] = typed
        # Applies to text that click prints itself; None lets the stream decide.
        context.color = False if is_plain() else None
        return context

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not context.resilient_parsing:
            raise click.UsageError(f"no command {name}{did_you_mean(name, self.commands)}", context)
        return super().resolve_command(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            with _usage_in_one_line():
                return super().invoke(context)
        except RegimeError as error:
            _fail(str(error), 1)
        except KeyboardInterrupt as error:
            _fail(f"interrupted; {str(error) or 'nothing was written'}", 130)
        except (click.ClickException, Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:
            where = error.filename
            _fail(f"the system: {error}" if where is None else cannot_open(Path(str(where)), error), 1)
        except Exception as error:
            if "-v" in sys.argv or "--verbose" in sys.argv:
                traceback.print_exc()
            _fail(
                f"{type(error).__name__}: {error}; this is a bug in regime: please report it with the output of -v",
                1,
            )


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        # Without arguments, a group shows its help.
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise
        _fail(usage_line(error), 2)


def _fail(message: str, code: int) -> NoReturn:
    show_error(message)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="regime")
def main() -> None:
    """Measure when activation patterns and weights settled during the training of a network.

    Every option can also be set by an environment variable, for example REGIME_ANALYZE_PRESET=strict.

    Example: regime analyze checkpoints/ --model mypkg.net:make --probe val.npz
    """


for module in (
    analyze,
    convert,
    program,
    inspect,
    demo,
    check,
    quantities,
    linearize,
    compare,
    plot,
    report,
    validate,
    merge,
    thin,
    export,
    example,
):
    main.add_command(getattr(module, module.__name__.rpartition(".")[2]))
