"""``regime linearize``: writes the affine maps of a network around samples."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from regime_proto.cli import options
from regime_proto.cli.command import command
from regime_proto.cli.console import Messages, say
from regime_proto.cli.output import refuse_output, write_output
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.kinds import MAPS
from regime_proto.schema.words import counted

if TYPE_CHECKING:
    from regime_proto.conversion.linearize import Linearized


@command
@click.argument("source", type=options.PATH)
@click.option("--step", type=int, metavar="N", help="Step of the checkpoint. Default: the last.")
@click.option("--samples", metavar="0,3,…", help="Samples of the probe, counted from 0, without repeats. Default: all.")
@click.option(
    "--outputs-of",
    metavar="LAYER",
    help="Map to the outputs of this gate, given by node or module, instead of the outputs of the network.",
)
@click.option(
    "--checkpoints", type=options.PATH, metavar="DIR", help="Directory of the checkpoints, if SOURCE is a trajectory."
)
@options.model
@options.probe
@options.device
@click.option("-o", "--output", required=True, type=options.PATH, metavar="FILE", help="The .npz file to write.")
@options.overwrite
@options.dry_run
@options.source_settings
@options.messages
def linearize(
    source: Path,
    step: int | None,
    samples: str | None,
    outputs_of: str | None,
    checkpoints: Path | None,
    model: str | None,
    probe: Path | None,
    device: str,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    adapter: str | None,
    step_pattern: str | None,
    weights: str | None,
) -> None:
    """Write the affine maps of a network around samples of its probe, and the radii within which they hold.

    Within the region of a sample, a network with piecewise affine gates is f(x') = K x' + c. The file holds K (matrix),
    c (offset) and the radius. The radius is that of the largest ball around each sample in which no unit changes its
    region and no max-pooling selects a different element; it is 0 if a max-pooling has a tie. The limit names the
    nearest boundary.

    For example:
        regime linearize checkpoints/ --step 20 -o maps.npz
        regime linearize checkpoints/ --samples 0,3 -o maps.npz
    """
    messages = Messages(quiet=quiet, verbose=verbose)
    _refuse_output(output, [source, checkpoints, probe, None if model is None else Path(model)], overwrite=overwrite)
    chosen = _numbers(samples)
    with messages.collecting():
        from regime_proto.conversion.linearize import linearize

        with messages.progress("linearizing") as progress:
            found = linearize(
                source,
                step,
                samples=chosen,
                outputs_of=outputs_of,
                checkpoints=checkpoints,
                model=model,
                probe=probe,
                device=device,
                adapter=adapter,
                step_pattern=step_pattern,
                weights=weights,
                progress=progress,
            )
        if not dry_run:
            _show(found)
        write_output(output, found.content, overwrite=overwrite, dry_run=dry_run, messages=messages)


def _refuse_output(output: Path, inputs: list[Path | None], *, overwrite: bool) -> None:
    """Raise an error for an output that cannot be written, before the maps are computed, which takes long."""
    if output.suffix.lower() != ".npz":
        raise RegimeError(f"{output}: expected a file name that ends with .npz")
    refuse_output(output, inputs, kind=MAPS)
    if output.exists() and not overwrite:
        raise RegimeError(f"{output}: exists; replace it with --overwrite")


def _show(found: "Linearized") -> None:
    regions = counted(found.regions, "different region")
    say(f"step {found.step}: the probe's {found.probe_samples} samples lie in {regions}")
    say("sample  |f(x)|     |f(x) - Kx - c|  radius    limit")
    for one in found.maps:
        length = sum(value * value for value in one.outputs.tolist()) ** 0.5
        say(f"{one.sample:>6}  {length:<9.4g}  {one.residual:<15.1e}  {one.radius:<8.3g}  {one.limit}".rstrip())


def _numbers(samples: str | None) -> list[int] | None:
    if samples is None:
        return None
    try:
        return [int(part) for part in samples.split(",")]
    except ValueError:
        raise RegimeError(f"--samples {samples!r}: expected numbers separated by commas, such as 0,3") from None
