"""The trajectory file: what is written is read, and a wrong file is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from regime_proto.schema import hdf5, layout
from regime_proto.schema.header import Header, Layer, Observation
from regime_proto.schema.reader import open_checked, read_header, read_rows

import regime_proto

ATTRIBUTES = dict.fromkeys(layout.REQUIRED_ATTRIBUTES, "x") | {"regime_version": "1.0", "step_kind": "step"}

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@st.composite
def headers(draw):
    layers = tuple(
        Layer(name, "Relu", "relu", draw(names), draw(st.integers(1, 40)), (0.0, 6.0)[: draw(st.integers(1, 2))])
        for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    )
    tensors = draw(st.dictionaries(names, st.integers(0, 10**12), min_size=1, max_size=4))
    metrics = tuple(draw(st.lists(st.sampled_from(["loss", "val acc", "lr"]), unique=True)))
    return Header(tensors, layers, draw(st.integers(1, 5)), ATTRIBUTES, metrics)


@st.composite
def trajectories(draw):
    header = draw(headers())
    count = draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    observations = [
        Observation(
            step=7 * number,
            epoch=draw(st.floats(allow_infinity=False)),
            valid=draw(st.booleans()),
            weight_delta_l1=draw(hnp.arrays(np.float64, len(header.tensors))),
            weight_delta_l2=draw(hnp.arrays(np.float64, len(header.tensors))),
            flips=random.integers(0, 2**32, (len(header.layers), header.samples), np.uint32),
            mask=random.integers(0, 256, (header.samples, header.mask_bytes), np.uint8),
            metrics={name: draw(st.floats()) for name in header.metrics[:1]},
        ).arrays(header)
        for number in range(count)
    ]
    return header, {name: np.stack([row[name] for row in observations]) for name in observations[0]}


@settings(max_examples=30)
@given(trajectories())
def test_round_trip(tmp_path_factory, case):
    header, rows = case
    path = tmp_path_factory.mktemp("round") / "run.h5"
    path.write_bytes(hdf5.image(header, rows))
    with open_checked(path) as file:
        found = read_header(file)
        found_rows = read_rows(file, found)
    assert dict(found.tensors) == dict(header.tensors)
    assert found.layers == header.layers
    assert found.samples == header.samples
    assert found.metrics == header.metrics
    assert found_rows.keys() == rows.keys()
    for name, values in rows.items():
        assert found_rows[name].dtype == layout.BY_NAME.get(name, layout.metric(name)).dtype
        np.testing.assert_array_equal(found_rows[name], values)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return regime_proto.synthetic.trajectory(steps=80, path=tmp_path_factory.mktemp("example") / "run.h5")


def test_a_data_set_is_lazy(example):
    with regime_proto.open_trajectory(example) as opened:
        assert not opened.variables["mask"]._in_memory


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "expected an HDF5 file, found another kind"),
        (b"hello" * 1000, "expected an HDF5 file, found another kind"),
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
