"""The command ``python -m regime_proto.examples.paper``."""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regime_proto.examples.paper.data.sets import STAND_INS, source_of
from regime_proto.examples.paper.rows import CHOICES, ROWS, Row, row_called
from regime_proto.schema.errors import RegimeError


class _Group(click.Group):
    """Prints errors that a user can fix in one line."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RegimeError as error:
            _fail(str(error), 1)
        except ImportError as error:
            _fail(f'{error.name or error} is required but not installed: pip install "regime-proto[cpu,paper]"', 1)
        except KeyboardInterrupt:
            _fail("interrupted; resume with the same command and --resume", 130)
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Train the systems of the paper's Table II, and compare the results with the published ones."""


@main.command(name="list")
@click.argument("row", required=False)
def list_rows(row: str | None) -> None:
    """List the eighteen rows, or show all details of ROW."""
    if row is not None:
        for name, text in _facts(row_called(row)):
            click.echo(textwrap.fill(text, 96, initial_indent=f"{name:<12}", subsequent_indent=" " * 12))
        return
    form = "{:<26}{:<16}{:>5}{:>7}{:>6}{:>10}{:>7}"
    click.echo(form.format("row", "optimizer, rate", "batch", "epochs", "ReLUs", "units", "ρ"))
    for one in ROWS:
        numbers = one.batch_size, one.epochs, one.gates, f"{one.units:,}", f"{one.published.rho:.2f}"
        click.echo(form.format(one.name, f"{one.optimizer}, {one.learning_rate:g}", *numbers))
    click.echo("\nρ is the published value; units are those of one sample. Choices where the paper states nothing:\n")
    for choice in CHOICES:
        click.echo(textwrap.fill(choice, 96, initial_indent="  ", subsequent_indent="    "))
    names = ", ".join(STAND_INS)
    click.echo("")
    click.echo(textwrap.fill(f"Without --data, stand-ins replace {names}.", 98))
    click.echo("\n`list ROW` shows further choices for a row.")


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the details of a row."""
    published = row.published
    nesterov = f", Nesterov momentum {row.momentum:g}" if row.nesterov else ""
    yield (
        "row",
        f"{row.name}: {published.labels['model']} on {published.labels['dataset']}, number {row.number} of Table II",
    )
    yield "optimizer", f"{row.optimizer}{nesterov}, rate {row.learning_rate:g}, weight decay {row.weight_decay:g}"
    yield "epochs", f"at most {row.epochs}, batches of {row.batch_size}"
    yield "gates", f"{row.gates} ReLUs, {row.units:,} units for one sample"
    for choice in row.choices:
        yield "chosen", choice
    stand_in = STAND_INS.get(row.data)
    yield "data", f"without --data: {f'{stand_in}, a stand-in for {row.data}' if stand_in else f'{row.data} itself'}"
    yield "--data", f"expects {source_of(row.data).LAYOUT}"
    stated = f"AUC_W {published.auc_w:g}, AUC_P {published.auc_p:g}, ρ {published.rho:g}"
    yield "published", f"score {published.labels['validation_score']}, {stated}"


@main.command()
@click.argument("row")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of this training. Default: a folder in paper-runs/."
)
@click.option(
    "--data",
    type=click.Path(),
    help="Folder of the real data set, with the files shown by `list ROW`. Default: data from downloaded packages.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch-size", type=int, help="Batch size. Default: the row's.")
@click.option("--momentum", type=float, help="Momentum of SGD. Default: the row's.")
@click.option("--dropout", type=float, help="Rate of every dropout. Default: the network's own.")
@click.option(
    "--scaling", help="Scaling of images: standard (by mean and deviation, the default) or unit (from 0 to 1)."
)
@click.option("--epochs", type=int, help="Maximum number of epochs. Default: the paper's.")
@click.option("--steps", type=int, help="Stop after this number of updates.")
@click.option(
    "--least-improvement",
    type=float,
    help="Least relative decrease of the validation loss that early stopping counts as progress. Default: 0.",
)
@click.option("--width", type=float, help="Fraction of the real width of the network, such as 0.25.")
@click.option("--image-size", type=int, help="Side length to which images are resized, if the network resizes them.")
@click.option("--validation-samples", type=int, help="Validate with only this number of samples, the first ones.")
@click.option(
    "--checkpoints",
    type=int,
    help="Number of states to keep for the structural share (docs/paper.md); 0 for none. Default: 16.",
)
@click.option("--every", type=int, help="Number of updates between observations; the paper observes every update.")
@click.option("--device", help="Device: cpu (the default), cuda or cuda:N.")
@click.option("--threads", type=int, help="Number of PyTorch threads on the CPU.")
@click.option("--resume", is_flag=True, help="Resume an interrupted training.")
def run(row: str, out: Path | None, threads: int | None, *, resume: bool, **chosen: Any) -> None:
    """Train and record ROW, and print the results."""
    found = row_called(row)
    # Imported late, because PyTorch takes long to import.
    import torch

    from regime_proto.examples.paper.running import run as run_row
    from regime_proto.examples.paper.settings import settings_of
    from regime_proto.examples.paper.table import lines_of

    settings = settings_of(found, **chosen)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", settings.device):
        raise RegimeError(f"--device {settings.device}: expected cpu, cuda or cuda:N")
    if settings.device != "cpu" and not torch.cuda.is_available():
        raise RegimeError(f"--device {settings.device}: this machine has no CUDA device; leave out the option")
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    folder = out or Path("paper-runs") / settings.folder
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(found.name, total=None)

        def show(progress: Any, steps: int, loss: float) -> None:
            scored = f", score {progress.epochs[-1].val_score:.3f}" if progress.epochs else ""
            bar.update(task, total=steps, completed=progress.step, description=f"{found.name}, loss {loss:.3f}{scored}")

        def say(text: str) -> None:
            click.echo(text, err=True)

        outcome = run_row(found, settings, folder, resume=resume, on_step=show, say=say)
    for line in lines_of(outcome):
        click.echo(line)
    click.echo(f"written to {folder}")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--row", "rows", multiple=True, help="Row to run; may be repeated. Default: the first six.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of simultaneous trainings."
)
@click.option("--others", is_flag=True, help="Vary dropout, scaling and early stopping instead, one at a time.")
@click.option("--shorter", type=int, help="Stop each training after this number of updates, for a trial.")
def study(out: Path, rows: tuple[str, ...], seeds: int, workers: int, shorter: int | None, *, others: bool) -> None:
    """Train rows with batch sizes from 32 to 256, and with momentum 0 and 0.9.

    Each training writes a small file into the folder OUT; trainings whose file exists are not repeated.
    """
    from regime_proto.examples.paper.study import grid, run_all, variations

    chosen = [row_called(name) for name in rows] or list(ROWS[:6])
    for line in run_all((variations if others else grid)(chosen, seeds, steps=shorter), out, workers):
        click.echo(line)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(["markdown", "csv", "latex", "html"]), default="markdown", show_default=True
)
@click.option("--row", "rows", multiple=True, help="Show only this row; may be repeated.")
@click.option("--by-batch-size", is_flag=True, help="Show only ρ against the batch size, for a study.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write. Default: standard output."
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw ρ against the batch size into this file.",
)
def table(
    folders: tuple[Path, ...],
    kind: str,
    rows: tuple[str, ...],
    output: Path | None,
    figure: Path | None,
    *,
    by_batch_size: bool,
) -> None:
    """Compare the results in FOLDERS with the published rows.

    FOLDERS are the folders that `run` and `study` have written.
    """
    from regime_proto.examples.paper.pictures import draw_study
    from regime_proto.examples.paper.table import FORMATS, STUDY, lines, read_outcomes
    from regime_proto.schema.files import replace_file

    chosen = {row_called(name).name for name in rows}
    found = [line for line in lines(read_outcomes(folders)) if not chosen or line.row.name in chosen]
    if by_batch_size and kind not in STUDY:
        raise RegimeError(f"--by-batch-size: cannot be written as {kind}; choose --format {' or '.join(STUDY)}")
    if not found:
        raise RegimeError(f"{', '.join(map(str, folders))}: no results for {', '.join(sorted(chosen))}")
    if figure is not None:
        draw_study(found, figure)
    text = (STUDY if by_batch_size else FORMATS)[kind](found)
    if output is None:
        click.echo(text, nl=False)
    else:
        replace_file(output, text.encode())
        click.echo(f"wrote {output}", err=True)
