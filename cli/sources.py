"""Checks a SOURCE on the command line."""

from pathlib import Path

from regime_proto.schema.errors import RegimeError


def refuse_other_file(source: Path) -> None:
    """Raise an error if a single checkpoint or a program is given instead of a trajectory."""
    from h5py import is_hdf5

    if not source.is_file() or is_hdf5(source):
        return
    from regime_proto.plugins.registry import is_checkpoint_file

    kind = "program" if source.suffix == ".onnx" else "checkpoint" if is_checkpoint_file(source) else None
    if kind is not None:
        raise RegimeError(f"{source}: a single {kind}; give the directory of the checkpoints, or a trajectory file")
