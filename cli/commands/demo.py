"""``regime demo``: trains a small network and analyzes it."""

import shlex
from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages
from regime_proto.cli.interruption import leaving, same_command
from regime_proto.cli.output import would_write
from regime_proto.schema.errors import RegimeError

MODEL = "regime_proto.examples.breast_cancer:make"


@command
@click.option(
    "-o", "--out", type=options.PATH, default=Path("regime-demo"), show_default=True, metavar="DIR",
    help="Directory for the run.",
)  # fmt: skip
@options.dry_run
@options.messages
def demo(out: Path, dry_run: bool, quiet: bool, verbose: bool) -> None:
    """Train a small network with a checkpoint at every step, and analyze it.

    Example: regime demo --out demo/
    """
    _run_demo(out, Messages(quiet=quiet, verbose=verbose), dry_run=dry_run)


def _run_demo(out: Path, messages: Messages, *, dry_run: bool) -> None:
    """Train the example unless `out` already holds it, and analyze it; in a dry run, say what would be written."""
    checkpoints, finished = out / "checkpoints", out / "validation_accuracy.txt"
    more = ["--dry-run"] if dry_run else []
    if not finished.is_file():
        _refuse_other(out, checkpoints)
        example = _example()
        if dry_run:
            _foresee(out, checkpoints)
            return
        messages.note(f"training the Breast Cancer MLP of the paper, a checkpoint at every step, in {checkpoints}")
        _train(example, out, checkpoints, finished)
    messages.note(f"trained: validation accuracy {finished.read_text(encoding='utf-8').strip()}")
    if not (checkpoints / "program.onnx").is_file():
        _run(["program", "--model", MODEL, "--probe", str(out / "probe.npz"), "-o", str(checkpoints), *more], messages)
        if dry_run:
            would_write(*_trajectory(out))
            return
    _run(["inspect", str(checkpoints)], messages)
    _run(["analyze", str(checkpoints), *more], messages)


def _refuse_other(out: Path, checkpoints: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not checkpoints.is_dir())):
        raise RegimeError(f"{out}: exists and is not a demo; choose another directory with --out")


def _foresee(out: Path, checkpoints: Path) -> None:
    for path, what in (
        (checkpoints, "a checkpoint of a small network at every step, its program and probe"),
        (out / "probe.npz", "the fixed inputs"),
        (out / "validation_accuracy.txt", "how well it classifies"),
        _trajectory(out),
    ):
        would_write(path, what)


def _trajectory(out: Path) -> tuple[Path, str]:
    return out / "checkpoints.regime.h5", "the trajectory"


def _train(example: Any, out: Path, checkpoints: Path, finished: Path) -> None:
    def remains() -> str:
        return f"{out} holds part of the training; {same_command()} restarts it" if checkpoints.is_dir() else ""

    out.mkdir(parents=True, exist_ok=True)
    with leaving(remains):
        accuracy = example.train(out)
        finished.write_text(f"{accuracy:.3f}\n", encoding="utf-8")


def _example() -> Any:
    try:
        from regime_proto.examples import breast_cancer
    except ModuleNotFoundError as error:
        raise RegimeError(
            f'the demo needs {error.name}, which is not installed: pip install "regime-proto[cpu,demo]"'
        ) from None
    return breast_cancer


def _run(arguments: list[str], messages: Messages) -> None:
    """Show a command as a user would type it, and run it."""
    messages.note("")
    messages.note("$ regime " + shlex.join(arguments), bold=True)
    regime = get_current_context().find_root().command
    regime.main(arguments + (["--quiet"] if messages.quiet else []), prog_name="regime", standalone_mode=False)
