"""Agrees on the common terms of parts of a run, each measured by its own process, and assigns their rows."""

from collections.abc import Sequence
from pathlib import Path

from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.program.probe import probe_sha256
from regime_proto.schema.hdf5 import chunk_steps
from regime_proto.schema.header import Header
from regime_proto.schema.segments import open_segment, segments_by_number
from regime_proto.schema.shards import Agreement, Shard, agree, read_agreement, require_same
from regime_proto.schema.words import few

# Number of letters of a hash that are shown.
_LETTERS = 12


def agreed(plan: Plan, header: Header, folder: Path, settings: ConversionSettings) -> tuple[Header, range]:
    """Agree with the other parts of a run on its terms and its identity.

    Parameters
    ----------
    plan : Plan
    header : Header
        Header of the trajectory, as this part would write it.
    folder : Path
        Folder of the segments, which this process has locked.
    settings : ConversionSettings
        The settings, with the shard.

    Returns
    -------
    header : Header
        The header with the identity of the run.
    rows : range
        The observations of this part.

    Raises
    ------
    RegimeError
        The other parts have a different plan.
    """
    shard = _shard_of(settings)
    found = agree(folder, _agreement(plan, header, folder, settings))
    identified = header.with_attributes(run_id=found.run_id, created=found.created)
    return identified, shard.rows(found.observations, found.per_segment)


def foreseen_rows(plan: Plan, header: Header, folder: Path, settings: ConversionSettings) -> range:
    """Return the observations of a part as `agreed` does, but write nothing.

    Raises
    ------
    RegimeError
        As in `agreed`.
    """
    ours, found = _agreement(plan, header, folder, settings), read_agreement(folder)
    if found is not None:
        require_same(folder, found, ours)
    return _shard_of(settings).rows(ours.observations, ours.per_segment)


def _shard_of(settings: ConversionSettings) -> Shard:
    assert settings.shard is not None  # noqa: S101
    return settings.shard


def _agreement(plan: Plan, header: Header, folder: Path, settings: ConversionSettings) -> Agreement:
    """Return the agreement that this part proposes to the others."""
    identity = {**header.attributes, **_begun(plan, folder)}
    per_segment = chunk_steps(header)
    return Agreement(
        terms=_terms(plan, header, settings),
        run_id=str(identity["run_id"]),
        created=str(identity["created"]),
        observations=len(plan.fingerprints),
        per_segment=per_segment,
        ends=[*plan.fingerprints[per_segment - 1 : -1 : per_segment], plan.fingerprints[-1]],
        command=tuple(settings.command),
        shards=_shard_of(settings).count,
    )


def _begun(plan: Plan, folder: Path) -> dict[str, object]:
    """Return the identity of this run from the segments of an interrupted conversion; empty if there are none."""
    for path in segments_by_number(folder).values():
        with open_segment(path) as segment:
            if segment.attrs["source_fingerprint"] in plan.fingerprints:
                return {name: segment.attrs[name] for name in ("run_id", "created")}
    return {}


def _terms(plan: Plan, header: Header, settings: ConversionSettings) -> dict[str, str]:
    """Return descriptions of all settings that must be the same for all parts."""
    checkpoints = plan.source.checkpoints
    return {
        "the steps": _shown([checkpoint.step for checkpoint in checkpoints]),
        "the program": plan.program.sha256[:_LETTERS],
        "the probe": probe_sha256(plan.probe)[:_LETTERS],
        "the gates": few([gate.node for gate in plan.gates]),
        "--weights": str(plan.weights),
        "--sample-units": f"{plan.sample_units} (seed {plan.sample_seed})",
        "--masks": str(header.mask_policy),
        "the quantities": ", ".join(quantity.name for quantity in plan.quantities) or "none",
        "--noise": settings.noise,
        "--batches-per-epoch": str(settings.batches_per_epoch),
        "the notes": str(sorted(settings.taken_notes.items())),
        "the embedded files": ", ".join(header.embedded) or "nothing",
        "the engine": str(header.attributes["engine"]),
        "the device": str(header.attributes["device"]),
        "the files of the checkpoints (names, sizes, times)": plan.fingerprints[-1][:_LETTERS],
    }


def _shown(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]} ({len(steps)})"
