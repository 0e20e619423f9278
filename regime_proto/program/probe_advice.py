"""Advice for a probe that does not fit a model: a different type, or a missing sample axis."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np

from regime_proto.schema.types import Array

Change = tuple[str, Callable[[Array], Array]]
"""The NumPy expression of a change to an array, without the array's name, and the change itself."""

_FIRST_AXIS: Change = ("[None]", lambda array: array[None])


def described(array: Array) -> str:
    """Return type and shape, such as ``float32[8, 20]``."""
    return f"{array.dtype.name}{list(array.shape)}"


def all_described(arrays: Mapping[str, Array]) -> str:
    """Return name, type and shape of each array."""
    return ", ".join(f"{name}: {described(array)}" for name, array in arrays.items())


def tried(arrays: Mapping[str, Array], run: Callable[[dict[str, Array]], object], *, whole: str = "int64") -> str:
    """Return the change with which a model runs on a probe, as the end of an error message; "" if there is none.

    Parameters
    ----------
    arrays : mapping of str to array
        By input.
    run : callable
        Runs the model on such arrays, and raises if it fails.
    whole : str
        The integer type of the model's framework.
    """
    for changed, advice in _changed(arrays, whole):
        with suppress(Exception):
            run(changed)
            return f"; it runs on {all_described(changed)}: {advice}"
    return ""


def declared(name: str, array: Array, dtype: str, shape: Sequence[object]) -> str:
    """Return, as advice, the change that makes an array fit the declaration of an input; "" if there is none.

    Parameters
    ----------
    name : str
        Of the input.
    array : array
    dtype : str
        NumPy name of the expected type.
    shape : sequence
        The expected shape; a fixed length is an int.
    """
    changes = []
    if array.ndim == len(shape) - 1 and _fits((1, *array.shape), shape):
        changes.append(_FIRST_AXIS)
    elif not _fits(array.shape, shape):
        is_sample = array.ndim == len(shape) - 1 and _fits(array.shape, shape[1:])
        return f"the first axis, of {shape[0]} samples, is missing: save the probe with it" if is_sample else ""
    if array.dtype.name != dtype:
        if dtype.startswith("int") and not _is_whole(array):
            return _NOT_WHOLE.format(name=name, dtype=dtype)
        changes.append(_as_type(dtype))
    return _advice(name, changes) if changes else ""


def missing_axis(name: str, shape: Sequence[int]) -> str:
    """Return advice for an input whose only or first axis is not the sample axis."""
    return (
        f"{name} is {list(shape)}; if this is a single sample, its sample axis is missing: "
        f"expected {name}[samples, {', '.join(map(str, shape))}], so save the probe with "
        f"{name}[None]"
    )


_NOT_WHOLE = "{name} needs whole numbers ({dtype}), such as token ids, but the probe holds fractions"


def _as_type(dtype: str) -> Change:
    return f".astype('{dtype}')", lambda array: array.astype(dtype)


def _changed(arrays: Mapping[str, Array], whole: str) -> Iterator[tuple[dict[str, Array], str]]:
    """Yield probes with one change, in one array or in all, then probes with two changes."""
    groups = [[name] for name in arrays] + ([list(arrays)] if len(arrays) > 1 else [])
    to_float, to_whole, axis = _as_type("float32"), _as_type(whole), _FIRST_AXIS
    for changes in ((to_float,), (to_whole,), (axis,), (axis, to_float), (axis, to_whole)):
        for names in groups:
            changed = {name: _apply(array, changes) if name in names else array for name, array in arrays.items()}
            different = [name for name in names if described(changed[name]) != described(arrays[name])]
            if different != names:
                continue
            if to_whole in changes and not all(_is_whole(arrays[name]) for name in names):
                changed |= {name: np.zeros_like(changed[name]) for name in names}
                yield changed, "; ".join(_NOT_WHOLE.format(name=name, dtype=whole) for name in names)
            else:
                yield changed, "; ".join(_advice(name, changes) for name in names)


def _apply(array: Array, changes: Sequence[Change]) -> Array:
    with np.errstate(invalid="ignore"):
        for _, change in changes:
            array = change(array)
    return array


def _advice(name: str, changes: Sequence[Change]) -> str:
    return f"save the probe with {name}{''.join(spelled for spelled, _ in changes)}"


def _is_whole(array: Array) -> bool:
    return array.dtype.kind in "iub" or bool((array == np.floor(array)).all())


def _fits(found: Sequence[int], shape: Sequence[object]) -> bool:
    """Whether a shape fits the declared one; a negative length, as some exporters write it, fits any."""
    return len(found) == len(shape) and all(
        not isinstance(length, int) or length < 0 or length == one for one, length in zip(found, shape, strict=True)
    )
