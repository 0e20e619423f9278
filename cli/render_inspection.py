"""Draws what was detected in a directory, a program or a trajectory, before any work."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType

from regime_proto.checkpoints import locations
from regime_proto.checkpoints.hub.locations import most_at_once, sizes
from regime_proto.checkpoints.source import Source
from regime_proto.cli.console import size
from regime_proto.cli.render import facts_grid, plain_table
from regime_proto.conversion.parting import Foreseen
from regime_proto.conversion.plan import Plan
from regime_proto.program.gates import Gate
from regime_proto.program.program import Program
from regime_proto.program.sample_axes import FIXED
from regime_proto.schema.epochs import PER_EPOCH
from regime_proto.schema.header import Layer
from regime_proto.schema.layout import STEP
from regime_proto.schema.notes import notes_in
from regime_proto.schema.reader import open_checked, read_header
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

SHOWN = 5


def source(found: Source, *, everything: bool) -> RenderableType:
    """Return the files of a directory, in order, with their steps."""
    checkpoints = found.checkpoints
    facts = facts_grid()
    facts.add_row("directory", str(found.root))
    facts.add_row("adapter", f"{found.adapter} ({found.recognised})")
    facts.add_row("checkpoints", f"{len(checkpoints)}, by {found.order} ({found.step_kind})")
    if found.copies is not None:
        each = sizes(found)
        facts.add_row("to fetch", f"{size(sum(each))} in total, at most {size(most_at_once(each))} at a time")
    files = plain_table(found.step_kind, ("file", "left"), ("size", "right"))
    for checkpoint in checkpoints if everything else checkpoints[:SHOWN]:
        files.add_row(str(checkpoint.step), checkpoint.path.name, size(locations.size(checkpoint.path)))
    if not everything and len(checkpoints) > SHOWN:
        if len(checkpoints) > SHOWN + 1:
            files.add_row("…", f"{len(checkpoints) - SHOWN - 1} more, -v shows all")
        last = checkpoints[-1]
        files.add_row(str(last.step), last.path.name, size(locations.size(last.path)))
    parts: list[RenderableType] = [facts, "", files]
    if found.skipped:
        skipped = plain_table("skipped", ("why", "left"))
        for entry in found.skipped if everything else found.skipped[:SHOWN]:
            skipped.add_row(entry.path.name, entry.reason)
        if not everything and len(found.skipped) > SHOWN:
            skipped.add_row("…", f"{len(found.skipped) - SHOWN} more, -v shows all")
        parts += ["", skipped]
    return Group(*parts)


def epoch(epochs: Sequence[float], step_kind: str) -> RenderableType:
    """Return what is known about the epochs of the first and the last checkpoint."""
    facts = facts_grid()
    facts.add_row("epoch", _epoch(np.array(epochs), step_kind, given=None))
    return facts


def _epoch(epochs: Array, step_kind: str, given: float | None) -> str:
    """Return what is known about the epochs of observations, or what to do if nothing is."""
    if step_kind == "epoch":
        return "counted by the steps"
    known = epochs[np.isfinite(epochs)]
    if given is not None:
        return f"{given:g} observations each"
    if len(known):
        where = "" if len(known) == len(epochs) else f", known for {len(known)} of {len(epochs)}"
        return f"{known[0]:g} to {known[-1]:g}{where}"
    return "none (save it under 'epoch', or give --batches-per-epoch)"


def plan(found: Plan, parts: Foreseen | None = None) -> RenderableType:
    """Return program, gates, and the estimated cost of a conversion, in parts or whole."""
    cost = facts_grid()
    policy = found.mask_policy("auto")
    cost.add_row("trajectory", f"about {size(found.predicted_file_bytes(policy))}, masks: {policy}")
    workers = found.workers if parts is None else parts.workers
    memory = found.predicted_memory_bytes(workers) if parts is None else parts.memory_bytes
    cost.add_row("memory", f"about {size(memory)} in addition to the libraries, {counted(workers, 'worker')}")
    if parts is not None:
        cost.add_row(
            "in parts",
            f"{parts.parts} of at most {size(parts.largest_bytes)} of weights, {parts.group} checkpoints at a time",
        )
        cost.add_row("to read", size(parts.read_bytes))
    return Group(program(found.program, found.all_gates, found.gates), "", cost)


def program(found: Program, gates: Sequence[Gate], tracked: Sequence[Gate]) -> RenderableType:
    """Return the inputs, tensors and all gates of a program."""
    samples = found.samples
    facts = facts_grid()
    facts.add_row("program", " ".join(f"{name} {version}" for name, version in found.framework.items()))
    for name, spec in found.inputs.items():
        axis = found.sample_axes.get(name, 0)
        where = "" if not axis else f", sample axis {axis}" if axis != FIXED else ", the same for all samples"
        facts.add_row("probe input", f"{name}: {spec}{where}")
    trainable = found.trainable
    facts.add_row(
        "trainable",
        f"{counted(len(trainable), 'tensor')}, {counted(sum(tensor.size for tensor in trainable), 'parameter', ',')}",
    )
    units = sum(gate.layer(samples).size for gate in tracked)
    facts.add_row(
        "gates", f"{len(tracked)} tracked, {counted(units, 'unit', ',')} per sample, {counted(samples, 'sample')}"
    )
    if len(gates) > len(tracked):
        facts.add_row("", f"{len(gates) - len(tracked)} not tracked, for the reasons below")
    table = plain_table("gate", ("op", "left"), ("module", "left"), ("units", "right"), ("thresholds", "right"))
    for gate in gates:
        count = f"{gate.layer(samples).size:,}" if gate.shape else ""
        thresholds = ", ".join(f"{plane.threshold:g}" for plane in gate.planes)
        why = "" if gate in tracked else f"not tracked: {gate.reason or 'not chosen by --gates'}"
        table.add_row(gate.node, gate.op, gate.path, count, thresholds, why)
    return Group(facts, "", table)


def trajectory(path: Path) -> RenderableType:
    """Return the contents of a trajectory file."""
    with open_checked(path) as file:
        header = read_header(file)
        steps = file[STEP][...]
        invalid = int(np.sum(file["valid"][...] == 0))
        masks, epochs = len(file["mask_step"]), file["epoch"][...]
    facts = facts_grid()
    facts.add_row("trajectory", f"{path}, {size(path.stat().st_size)}")
    planned = header.attributes.get("planned_observations", len(steps))
    count = f"{len(steps)}" if planned == len(steps) else f"{len(steps)} of {planned} planned"
    facts.add_row("observations", f"{count}, {header.attributes['step_kind']} {steps[0]} to {steps[-1]}")
    kind, given = str(header.attributes["step_kind"]), header.attributes.get(PER_EPOCH)
    facts.add_row("epoch", _epoch(epochs, kind, None if given is None else float(given)))
    if invalid:
        facts.add_row("invalid", f"{counted(invalid, 'observation')} with NaN or Inf")
    facts.add_row(
        "masks",
        f"of {counted(masks, 'observation')}, {counted(header.samples, 'sample')}, "
        f"{size(header.mask_bytes)} per sample",
    )
    facts.add_row(
        "trainable",
        f"{counted(len(header.tensors), 'tensor')}, {counted(sum(header.tensors.values()), 'parameter', ',')}",
    )
    for name, content in header.embedded.items():
        facts.add_row("embedded", f"{name}, {size(len(content))}")
    if header.metrics:
        facts.add_row("metrics", ", ".join(header.metrics))
    for name, note in notes_in(header.extra).items():
        facts.add_row("note", f"{name}: {note}")
    for name, value in header.attributes.items():
        facts.add_row(name, str(value))
    return Group(facts, "", _gates(header.layers))


def _gates(layers: Sequence[Layer]) -> RenderableType:
    table = plain_table("gate", ("op", "left"), ("module", "left"), ("units", "right"))
    for layer in layers:
        table.add_row(layer.name, layer.op, layer.path, f"{layer.size:,}")
    return table
