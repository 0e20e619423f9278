"""Opens a trajectory file as a labelled data set."""

import os
from pathlib import Path

import xarray as xr

from regime_proto.schema.notes import ORDER_DOUBT, read_order_doubt
from regime_proto.schema.reader import open_checked


def open_trajectory(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a trajectory file, lazily.

    Parameters
    ----------
    path : path

    Returns
    -------
    xarray.Dataset
        The variables of the file; values are read when they are used. Close it, or use it as a context. What a
        conversion found against the order of the checkpoints is among the attributes, ``order_doubt``.

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the layout.
    """
    path = Path(path)
    with open_checked(path) as file:
        doubt = read_order_doubt(file)
    trajectory = xr.open_dataset(path, engine="h5netcdf")
    if doubt is not None:
        trajectory.attrs[ORDER_DOUBT] = doubt
    return trajectory
