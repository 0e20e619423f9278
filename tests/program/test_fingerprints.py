"""Weights are found in an exported graph by the numbers that were put into them."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_proto.program.fingerprints import fingerprints, found_in
from regime_proto.program.program import ProgramError

SHAPES = {"a": (3, 4), "b": (4,), "c": (1,), "d": (), "e": (4, 3), "f": (1, 1)}


def prints(dtype=np.float32):
    return fingerprints({name: (shape, np.dtype(dtype)) for name, shape in SHAPES.items()})


def model_of(initializers):
    """Return a graph of initializers only."""
    values = [
        ir.Value(
            name=name, const_value=ir.tensor(np.asarray(array), name=name), shape=ir.Shape(np.shape(array)),
            type=ir.TensorType(ir.DataType.from_numpy(np.asarray(array).dtype)),
        )
        for name, array in initializers.items()
    ]  # fmt: skip
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


@given(st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=30), st.sampled_from([np.float32, np.float64]))
def test_no_tensor_has_the_numbers_of_another(shapes, dtype):
    arrays = fingerprints({str(place): (shape, np.dtype(dtype)) for place, shape in enumerate(shapes)})
    assert [array.shape for array in arrays.values()] == [tuple(shape) for shape in shapes]
    assert all(array.dtype == dtype and (np.abs(array) < 1).all() for array in arrays.values())
    contents = [array.tobytes() for array in arrays.values()]
    assert len(set(contents)) == len(contents)
    # What an exporter puts in itself.
    assert not {float(array.reshape(-1)[0]) for array in arrays.values()} & {0.0, 0.5, 1.0, -1.0}
    initializers = {f"i{name}": array for name, array in arrays.items()}
    assert found_in(model_of(initializers), arrays, "m") == {f"i{name}": name for name in arrays}


def test_the_numbers_are_the_same_every_time():
    for name, array in prints().items():
        np.testing.assert_array_equal(array, prints()[name])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_they_are_found_in_other_types_and_beside_other_constants(dtype):
    arrays = prints(np.float32)
    initializers = {f"i{name}": array.astype(dtype) for name, array in arrays.items()}
    initializers |= {"one": np.float32([1]), "index": np.int64([0]), "empty": np.zeros((0, 4), np.float32)}
    assert found_in(model_of(initializers), arrays, "m") == {f"i{name}": name for name in arrays}


def test_axes_of_length_1_may_differ():
    arrays = {name: array for name, array in prints().items() if name in "ab"}
    found = found_in(model_of({"x": arrays["b"][None], "y": arrays["a"][:, None]}), arrays, "m")
    assert found == {"x": "b", "y": "a"}


@pytest.mark.parametrize(
    "change", [np.transpose, lambda array: array * np.float32(2), np.ravel, lambda array: array[:2]]
)
def test_what_the_exporter_changed_is_named(change):
    arrays = prints()
    initializers = {**arrays, "a": change(arrays["a"])}
    with pytest.raises(ProgramError, match=r"^model M: 'a' not found in the exported graph: .* give that file$"):
        found_in(model_of(initializers), arrays, "model M")


def test_many_missing_ones_are_not_all_named():
    with pytest.raises(ProgramError, match=r"'a', 'b', 'c' and 3 more not found"):
        found_in(model_of({}), prints(), "m")


def test_whole_numbers_are_no_weights():
    """In whole numbers all of these are zero."""
    arrays = {"c": prints()["c"]}
    with pytest.raises(ProgramError, match="'c' not found"):
        found_in(model_of({"x": np.int64([0]), "y": np.array([False])}), arrays, "m")


def test_a_weight_in_two_places_is_refused():
    arrays = prints()
    with pytest.raises(ProgramError, match=r"does not distinguish weights: 'b' in 'b', 'again'; export"):
        found_in(model_of({**arrays, "again": arrays["b"]}), arrays, "m")


def test_two_weights_in_one_place_are_refused():
    arrays = {"b": np.float32([1, 2]), "c": np.float32([1, 2])}
    with pytest.raises(ProgramError, match=r"does not distinguish weights: 'c', 'b' in 'x'; export"):
        found_in(model_of({"x": arrays["b"]}), arrays, "m")
