"""Which axis of each input of a probe is the sample, and which inputs are the same for all samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

AXIS = "regime_axis_"
"""What the reserved name of an array begins with: the rest is an input, the array the number of its sample axis."""

FIXED = -1
"""In place of an axis: the input is the same for all samples."""


class AxisError(RegimeError):
    """It cannot be told where the samples of a probe lie."""


def declared_axes(arrays: Mapping[str, Array]) -> dict[str, int]:
    """Return what the reserved arrays of a probe say, by input.

    Raises
    ------
    AxisError
        One is no axis of an array in the probe.
    """
    found = {name.removeprefix(AXIS): array for name, array in arrays.items() if name.startswith(AXIS)}
    axes: dict[str, int] = {}
    for name, array in found.items():
        if name not in arrays:
            raise AxisError(f"{AXIS}{name}: there is no array {name!r}; name it after one in the probe")
        number = array.reshape(-1)[0] if array.size == 1 else None
        if number is None or number not in range(FIXED, arrays[name].ndim):
            shown = array.tolist() if array.size < 5 else f"{array.dtype.name}{list(array.shape)}"
            raise AxisError(
                f"{AXIS}{name} is {shown}; expected one axis of {name}{list(arrays[name].shape)}, 0 for the first, "
                f"or {FIXED} where it is the same for all samples"
            )
        axes[name] = int(number)
    return axes


def find_axes(shapes: Mapping[str, Sequence[int]], declared: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the number of samples, and the sample axis of every input; `FIXED` for one that has none.

    That is the first axis, where all inputs agree on its length. Otherwise a single number is the same for all samples,
    and so is an array of one row; in another array the sample is the one axis that is as long as there are samples.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        By input.
    declared : mapping of str to int
        What the probe says; it overrides what is found.

    Raises
    ------
    AxisError
        The shapes do not tell, or contradict what is declared.
    """
    undeclared = {name: shape for name, shape in shapes.items() if name not in declared}
    stated = {name: shapes[name][axis] for name, axis in declared.items() if axis != FIXED}
    lengths = {name: shape[0] for name, shape in undeclared.items() if shape}
    deciding = stated or lengths
    if not deciding:
        name, shape = next(iter(shapes.items()))
        what = "the same for all samples, and no other input has them" if shape else "a single number"
        raise AxisError(f"{name} is {what}; the first axis must be the sample")
    candidates = set(deciding.values())
    fitting = {samples: axes for samples in candidates if (axes := _axes(undeclared, samples)) is not None}
    if len(fitting) != 1 or (stated and len(candidates) > 1):
        raise AxisError(_undecided(deciding, sorted(fitting), {**lengths, **stated}))
    [(samples, found)] = fitting.items()
    found |= declared
    return samples, {name: found[name] for name in shapes}


def _axes(shapes: Mapping[str, Sequence[int]], samples: int) -> dict[str, int] | None:
    """Return the sample axis of every input if there are so many samples; None if their shapes do not allow that."""
    axes: dict[str, int] = {}
    for name, shape in shapes.items():
        axis = _axis(shape, samples)
        if axis is None:
            return None
        axes[name] = axis
    return axes if samples else None


def _axis(shape: Sequence[int], samples: int) -> int | None:
    if not shape:
        return FIXED
    if shape[0] == samples:
        return 0
    axes = [axis for axis, length in enumerate(shape) if length == samples]
    if len(axes) == 1:
        return axes[0]
    return FIXED if not axes and shape[0] == 1 else None


def _undecided(lengths: Mapping[str, int], fitting: Sequence[int], shown: Mapping[str, int]) -> str:
    found = ", ".join(f"{name}: {length}" for name, length in shown.items())
    if not all(lengths.values()) or len(shown) < 2:
        return f"expected one number of samples, 1 or more, in every array; found {found}"
    name = list(shown)[-1]
    either = f" ({' or '.join(map(str, fitting))} samples)" if fitting else ""
    return (
        f"expected one number of samples, 1 or more, in every array; found {found}{either}; say where samples lie "
        f"along another axis, or nowhere, by arrays such as {AXIS}{name}=1, or {AXIS}{name}={FIXED} for an input that "
        "is the same for all samples"
    )


def axes_of(probe: Mapping[str, Array], inputs: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Return the number of samples in a bound probe, and the sample axis of each of its `inputs`; see `find_axes`."""
    declared = {name: axis for name, axis in declared_axes(probe).items() if name in inputs}
    return find_axes({name: probe[name].shape for name in inputs}, declared)


def reordered(probe: Mapping[str, Array], axes: Mapping[str, int], order: Array) -> dict[str, Array]:
    """Return a bound probe with its samples in another order; what is the same for all of them stays as it is."""
    return {
        name: array if axes.get(name, FIXED) == FIXED else np.take(array, order, axis=axes[name])
        for name, array in probe.items()
    }


def sample_first(array: Array, axis: int, samples: int) -> Array:
    """Return an array as (sample, unit), given its sample axis; -1 for a leading axis of samples × something."""
    if axis > 0:
        array = np.moveaxis(array, axis, 0)
    return array.reshape(samples, -1)
