"""Reads one checkpoint as a conversion does."""

import shutil

import h5py
import numpy as np

import regime_proto
from regime_proto.checkpoints.payload import state_of
from regime_proto.conversion.plan import PROBE_FILE, PROGRAM_FILE


def read(adapter, path, weights=None):
    """Read with an adapter, and take the model's state out of what it found."""
    return state_of(adapter.read(path), str(path), weights=weights)


def assert_same_trajectory(found, expected, folder, *, model=None, probe=None, program=None, **options):
    """Two directories measure alike, the first read with `options`: weights and gates, which change.

    In place of a model and a probe `program` may be a directory with both as files, which are copied.
    """
    for root in (found, expected) if program is not None else ():
        for name in (PROGRAM_FILE, PROBE_FILE):
            shutil.copy(program / name, root)
    roots = {"found": (found, options), "expected": (expected, {})}
    contents = []
    for name, (root, chosen) in roots.items():
        path = regime_proto.convert(root, folder / f"{name}.h5", model=model, probe=probe, **chosen)
        with regime_proto.open_trajectory(path) as trajectory:
            contents.append(trajectory.load())
    for name in ("step", "flips", "mask", "weight_delta_l1", "weight_delta_l2"):
        np.testing.assert_array_equal(contents[0][name], contents[1][name])
    assert (contents[0]["flips"][1:] > 0).any()
    assert (contents[0]["weight_delta_l2"][1:] > 0).any()


def contents(path):
    """Everything in a trajectory but the two attributes that name the run."""
    with h5py.File(path) as file:
        values = {name: file[name].asstr()[...] if file[name].dtype.kind == "O" else file[name][...] for name in file}
        attributes = {name: value for name, value in file.attrs.items() if name not in ("run_id", "created")}
    return values, attributes


def assert_same(left, right):
    (left_values, left_attributes), (right_values, right_attributes) = contents(left), contents(right)
    assert left_attributes == right_attributes
    assert left_values.keys() == right_values.keys()
    for name, values in left_values.items():
        np.testing.assert_array_equal(values, right_values[name], err_msg=name)
