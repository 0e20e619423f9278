"""The trajectory file: what is written is read, and a wrong file is refused."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import trajectories
from hypothesis import given, settings
from hypothesis import strategies as st

import regime_proto
from regime_proto.schema import hdf5, layout, validate
from regime_proto.schema.header import Header, Layer
from regime_proto.schema.reader import open_checked, read_header, read_rows
from regime_proto.schema.segments import Segments
from regime_proto.schema.validation.check import problems_of
from regime_proto.schema.writer import TrajectoryWriter

ATTRIBUTES = trajectories.ATTRIBUTES

# Everything that HDF5 strings can hold: slashes, quotes, accents, emoji, line breaks.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
QUANTITIES = (layout.WEIGHT_DISTANCE, *trajectories.QUANTITIES)
thresholds = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=4, unique=True).map(
    lambda found: tuple(sorted(found))
)


@st.composite
def headers(draw):
    sampled = draw(st.booleans())
    layers, index = [], []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        size = draw(st.integers(1, 40))
        units = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))) if sampled else range(size)
        kind = draw(st.sampled_from(layout.LAYER_KINDS))
        stored = len(units) if sampled else None
        layers.append(Layer(name, draw(names), kind, draw(names | st.just("")), size, draw(thresholds), stored))
        index.append(np.array(units))
    return Header(
        tensors=draw(st.dictionaries(names, st.integers(0, 10**12), min_size=1, max_size=4)),
        layers=tuple(layers),
        samples=draw(st.integers(1, 5)),
        attributes=ATTRIBUTES | {"mask_policy": draw(st.sampled_from(["all", "none", "every=2", "every=3"]))},
        metrics=tuple(draw(st.lists(names, unique=True, max_size=3))),
        unit_index=tuple(index) if sampled else None,
        quantities=tuple(draw(st.lists(st.sampled_from(QUANTITIES), unique=True))),
        embedded=draw(st.dictionaries(st.sampled_from([layout.PROGRAM, layout.PROBE]), st.binary(min_size=1))),
    )


@settings(max_examples=16)
@given(headers(), st.integers(1, 9), st.integers(0, 1000))
def test_round_trip(tmp_path_factory, header, count, seed):
    """What is written is valid, and read as it was."""
    assert_round_trip(tmp_path_factory, header, count, seed)


@pytest.mark.slow
@settings(max_examples=100)
@given(headers(), st.integers(1, 9), st.integers(0, 1000))
def test_many_round_trips(tmp_path_factory, header, count, seed):
    assert_round_trip(tmp_path_factory, header, count, seed)


def assert_round_trip(tmp_path_factory, header, count, seed):
    path = tmp_path_factory.mktemp("round") / "run.h5"
    growing = [variable for variable in header.variables if variable.grows]
    written = trajectories.growing_rows(header, count, seed)
    path.write_bytes(hdf5.image(header, written))
    assert problems_of(path, whole=True) == []
    with h5py.File(path) as file:
        found = read_header(file)
        found_rows = read_rows(file, found)
    assert dict(found.tensors) == dict(header.tensors)
    assert found.layers == header.layers
    assert found.samples == header.samples
    assert found.metrics == header.metrics
    assert found.embedded == header.embedded
    assert set(found.quantities) == set(header.quantities)
    assert found.mask_policy == header.mask_policy
    if header.unit_index is not None:
        for units, known in zip(found.unit_index, header.unit_index, strict=True):
            np.testing.assert_array_equal(units, known)
    assert found_rows.keys() == written.keys()
    for variable in growing:
        values = found_rows[variable.name]
        assert values.dtype == variable.dtype
        np.testing.assert_array_equal(values, np.reshape(written[variable.name], values.shape))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "which is an HDF5 file, found another kind"),
        (b"hello" * 1000, "which is an HDF5 file, found another kind"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "expected an undamaged HDF5 file"),
    ],
)
def test_no_file_and_no_hdf5(tmp_path, content, message):
    path = tmp_path / "run.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(regime_proto.TrajectoryError, match=message):
        regime_proto.analyze(path)


def test_chunks_hold_fewer_steps_where_an_observation_is_large():
    small = Header({"w": 1}, (Layer("a", "Relu", "relu", "", 100),), 4, ATTRIBUTES)
    large = Header({"w": 1}, (Layer("a", "Relu", "relu", "", 10**7),), 8, ATTRIBUTES)
    assert hdf5.chunk_steps(small) == 64
    assert hdf5.chunk_steps(large) == 3
    row = hdf5.row_bytes(large, layout.STEP) + hdf5.row_bytes(large, layout.MASK_STEP)
    assert hdf5.chunk_steps(large) * row <= hdf5.MAX_SEGMENT_BYTES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tensors": {}}, "at least one tensor"),
        ({"layers": ()}, "at least one layer"),
        ({"samples": 0}, "at least one probe sample"),
        ({"tensors": {"": 1}}, "tensor '': expected a unique, non-empty name"),
        ({"tensors": {"a\0b": 1}}, "without NUL"),
        ({"tensors": {"\ud800": 1}}, "valid Unicode"),
        ({"layers": (Layer("a", "Relu", "relu", "", 3),) * 2}, "layer 'a': expected a unique, non-empty name"),
        ({"layers": (Layer("a", "Relu", "relu", "", 0),)}, "at least one unit and one threshold"),
        ({"layers": (Layer("a", "Relu", "relu", "", 3, ()),)}, "at least one unit and one threshold"),
        ({"layers": (Layer("a", "Relu", "relu", "", 2**32),)}, "the format allows .*--sample-units"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused_before_it_is_written(given, message):
    parts = {"tensors": {"w": 1}, "layers": (Layer("a", "Relu", "relu", "", 3),), "samples": 1}
    with pytest.raises(regime_proto.TrajectoryError, match=message):
        Header(**{**parts, **given}, attributes=ATTRIBUTES)


def test_metrics_of_one_clean_name_are_kept_apart(tmp_path, own_processes):
    head = trajectories.header(metrics=("val acc", "val_acc", "val-acc"))
    rows = [
        replace(row, metrics={"val acc": 1.0, "val_acc": 2.0, "val-acc": 3.0})
        for row in trajectories.observations(head, 2)
    ]
    with Segments(tmp_path / "run.h5") as segments, TrajectoryWriter(segments, head) as writer:
        for row in rows:
            writer.append(row, fingerprint="f")
    assert validate(tmp_path / "run.h5") == []
    with regime_proto.open_trajectory(tmp_path / "run.h5") as opened:
        assert [opened[f"metric_val_acc{end}"].values[1] for end in ("", "_2", "_3")] == [1.0, 2.0, 3.0]
        assert opened["metric_val_acc_2"].attrs["long_name"] == "val_acc"
    with open_checked(tmp_path / "run.h5") as file:
        assert read_header(file).metrics == head.metrics


def test_a_single_observation_larger_than_a_chunk_ought_to_be(tmp_path):
    """Every chunk stays below the limit of the format, whatever the row."""
    head = Header(
        {f"t{number}": 1 for number in range(3)},
        tuple(Layer(f"l{number}", "Relu", "relu", "", 1) for number in range(1200)),
        8000,
        ATTRIBUTES,
    )
    with h5py.File.in_memory(**hdf5.CREATE_OPTIONS) as file:
        hdf5.create(file, head)
        for name in ("flips", "mask", "weight_delta_l1"):
            size = np.prod(file[name].chunks) * file[name].dtype.itemsize
            assert size <= hdf5.MAX_SEGMENT_BYTES
