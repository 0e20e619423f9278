"""The command `regime`. What is heavy is imported when a command runs, so that help answers at once."""

import sys
import traceback
from typing import Any

import rich_click as click
from click.exceptions import Exit
from regime_proto.cli import checking, exchange, measuring, reporting
from regime_proto.cli.console import show_error
from regime_proto.schema.errors import RegimeError

from regime_proto import __version__

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.MAX_WIDTH = 100


class _Group(click.RichGroup):
    """Turns errors into one line and an exit code: 1 for what the user can mend."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RegimeError as error:
            _fail(str(error), 1)
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on from the last segment, if one was written", 130)
        except (click.ClickException, Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
        except Exception as error:
            if "-v" in sys.argv or "--verbose" in sys.argv:
                traceback.print_exc()
            _fail(
                f"{type(error).__name__}: {error}; this is a bug in regime: please report it, with the output of -v",
                1,
            )


def _fail(message: str, code: int) -> None:
    show_error(message)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="regime")
def main() -> None:
    """Measure when activation patterns and when weights settled while a network trained.

    Example: regime analyze checkpoints/ --model mypkg.net:make --probe val.npz
    """


for command in (
    measuring.analyze,
    measuring.convert,
    measuring.program,
    measuring.inspect,
    measuring.demo,
    checking.check,
    reporting.compare,
    reporting.plot,
    reporting.report,
    exchange.validate,
    exchange.merge,
    exchange.thin,
    exchange.export,
    exchange.example,
):
    main.add_command(command)
