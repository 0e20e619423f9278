"""Describes the origin of a trajectory, and embeds what others need to run the same protocol."""

import datetime
import platform
import uuid
import warnings
from collections.abc import Mapping, Sequence

import regime_proto
from regime_proto.engine.calibrated import Calibrated
from regime_proto.program.probe import probe_content, probe_sha256
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.header import Header
from regime_proto.schema.layout import PROBE, PROGRAM
from regime_proto.schema.types import Array

EMBED = {"program": (PROGRAM,), "all": (PROGRAM, PROBE), "none": ()}
MAX_EMBEDDED_BYTES = 64 * 10**6


def provenance(
    program: Program, probe: Mapping[str, Array], *, adapter: str, step_kind: str, engine: str, device: str
) -> dict[str, object]:
    """Return the root attributes of a new trajectory.

    Parameters
    ----------
    program : Program
    probe : mapping of str to array
        The arrays of the probe by program input.
    adapter : str
        Name of the adapter that reads the states.
    step_kind : str
        Unit of the steps: ``step``, ``epoch`` or ``ordinal``.
    engine : str
        The library that runs the program, with its version.
    device : str
        The device that runs the program.

    Returns
    -------
    dict of str to object
    """
    return {
        "run_id": str(uuid.uuid4()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": f"regime-proto {regime_proto.__version__}",
        "source_fingerprint": "",
        "source_adapter": adapter,
        "step_kind": step_kind,
        "probe_sha256": probe_sha256(probe),
        "program_sha256": program.sha256,
        "engine": engine,
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "framework": " ".join(f"{name} {version}" for name, version in program.framework.items()),
    }


def header_of(
    meter: Calibrated,
    attributes: Mapping[str, object],
    *,
    sample_units: int | None = None,
    sample_seed: int = 0,
    metrics: Sequence[str] = (),
) -> Header:
    """Return the header of a trajectory measured with `meter`."""
    sampled = {"sample_units": sample_units, "sample_units_seed": sample_seed} if meter.is_sampled else {}
    return Header(
        tensors={tensor.name: tensor.size for tensor in meter.program.trainable},
        layers=meter.layers,
        samples=meter.rows[0].samples,
        attributes={**attributes, **sampled},
        metrics=tuple(metrics),
        layer_units=meter.layer_units,
        unit_index=meter.unit_index,
        quantities=tuple(quantity.stored for quantity in meter.measures.quantities),
    )


def embedded_files(program: Program, probe: Mapping[str, Array], embed: str) -> dict[str, bytes]:
    """Return the files to embed in a trajectory.

    Parameters
    ----------
    program : Program
    probe : mapping of str to array
    embed : {"program", "all", "none"}

    Raises
    ------
    RegimeError
        `embed` has a different value.
    """
    if embed not in EMBED:
        raise RegimeError(f"embed {embed!r}: expected one of {', '.join(EMBED)}")
    makers = {PROGRAM: lambda: program.content, PROBE: lambda: probe_content(probe)}
    contents = {name: makers[name]() for name in EMBED[embed]}
    for name, content in contents.items():
        if len(content) > MAX_EMBEDDED_BYTES:
            warnings.warn(f"the {name} is larger than 64 MB, so it is not embedded", RegimeWarning, stacklevel=3)
    return {name: content for name, content in contents.items() if len(content) <= MAX_EMBEDDED_BYTES}
