"""What ``regime demo`` runs: the Breast Cancer example, then the commands a user would type."""

import shlex
from pathlib import Path
from typing import Any

import rich_click as click
from regime_proto.cli.console import Messages
from regime_proto.schema.errors import RegimeError

MODEL = "regime_proto.examples.breast_cancer:make"


def run_demo(out: Path, messages: Messages) -> None:
    """Train the example unless `out` holds it already, and analyze it."""
    checkpoints = out / "checkpoints"
    finished = out / "validation_accuracy.txt"
    if not finished.is_file():
        if out.exists() and any(out.iterdir()) and not checkpoints.is_dir():
            raise RegimeError(f"{out}: exists and is not a demo; choose another directory with --out")
        example = _example()
        messages.note(f"training the Breast Cancer MLP of the paper, a checkpoint at every step, in {checkpoints}")
        finished.parent.mkdir(parents=True, exist_ok=True)
        accuracy = example.train(out)
        finished.write_text(f"{accuracy:.3f}\n", encoding="utf-8")
    messages.note(f"trained: validation accuracy {finished.read_text(encoding='utf-8').strip()}")
    if not (checkpoints / "program.onnx").is_file():
        _run(["program", "--model", MODEL, "--probe", str(out / "probe.npz"), "-o", str(checkpoints)], messages)
    _run(["inspect", str(checkpoints)], messages)
    _run(["analyze", str(checkpoints)], messages)


def _example() -> Any:
    try:
        from regime_proto.examples import breast_cancer
    except ModuleNotFoundError as error:
        raise RegimeError(f'the demo needs {error.name}: pip install "regime-proto[cpu,demo]"') from None
    return breast_cancer


def _run(arguments: list[str], messages: Messages) -> None:
    """Show a command as a user would type it, and run it."""
    from regime_proto.cli.main import main

    messages.note("")
    messages.note(click.style("$ regime " + shlex.join(arguments), bold=True))
    main.main(arguments + (["--quiet"] if messages.quiet else []), prog_name="regime", standalone_mode=False)
