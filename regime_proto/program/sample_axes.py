"""Finds the sample axis of each input of a probe, and the inputs that are the same for all samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

AXIS = "regime_axis_"
"""Prefix of a reserved array name: the rest names an input, and the array holds the index of its sample axis."""

FIXED = -1
"""Instead of an axis: the input is the same for all samples."""


class AxisError(RegimeError):
    """The sample axes of a probe cannot be determined."""


def declared_axes(arrays: Mapping[str, Array]) -> dict[str, int]:
    """Return the axes declared by the reserved arrays of a probe, by input.

    Raises
    ------
    AxisError
        One of them is not an axis of an array in the probe.
    """
    found = {name.removeprefix(AXIS): array for name, array in arrays.items() if name.startswith(AXIS)}
    axes: dict[str, int] = {}
    for name, array in found.items():
        if name not in arrays:
            raise AxisError(f"{AXIS}{name}: the probe has no array {name!r}; name this array after one in the probe")
        number = array.reshape(-1)[0] if array.size == 1 else None
        if number is None or number not in range(FIXED, arrays[name].ndim):
            shown = array.tolist() if array.size < 5 else f"{array.dtype.name}{list(array.shape)}"
            raise AxisError(
                f"{AXIS}{name} is {shown}; expected one axis of {name}{list(arrays[name].shape)}, "
                f"0 for the first, or {FIXED} if it is the same for all samples"
            )
        axes[name] = int(number)
    return axes


def find_axes(shapes: Mapping[str, Sequence[int]], declared: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the number of samples, and the sample axis of every input; `FIXED` for one that has none.

    This is the first axis if its length is the same in all inputs. Otherwise a single number, or an array of one row,
    is the same for all samples; in any other array the sample is the only axis whose length is the number of samples.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        By input.
    declared : mapping of str to int
        The axes declared by the probe; they override detected ones.

    Raises
    ------
    AxisError
        The shapes are ambiguous, or contradict the declared axes.
    """
    undeclared = {name: shape for name, shape in shapes.items() if name not in declared}
    stated = {name: shapes[name][axis] for name, axis in declared.items() if axis != FIXED}
    lengths = {name: shape[0] for name, shape in undeclared.items() if shape}
    deciding = stated or lengths
    if not deciding:
        name, shape = next(iter(shapes.items()))
        what = "the same for all samples, and no other input has a sample axis" if shape else "a single number"
        raise AxisError(f"{name} is {what}; the first axis must be the sample")
    candidates = set(deciding.values())
    fitting = {samples: axes for samples in candidates if (axes := _axes(undeclared, samples)) is not None}
    if len(fitting) != 1 or (stated and len(candidates) > 1):
        raise AxisError(_undecided(deciding, sorted(fitting), {**lengths, **stated}))
    [(samples, found)] = fitting.items()
    found |= declared
    return samples, {name: found[name] for name in shapes}


def _axes(shapes: Mapping[str, Sequence[int]], samples: int) -> dict[str, int] | None:
    """Return the sample axis of every input for this number of samples; None if the shapes do not allow it."""
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
        return f"expected the same number of samples, 1 or more, in every array; found {found}"
    name = list(shown)[-1]
    either = f" ({' or '.join(map(str, fitting))} samples)" if fitting else ""
    return (
        f"expected the same number of samples, 1 or more, in every array; found {found}{either}; "
        f"if the sample is a different axis, add an array such as {AXIS}{name}=1 to the probe, or "
        f"{AXIS}{name}={FIXED} for an input that is the same for all samples"
    )


def axes_of(probe: Mapping[str, Array], inputs: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Return the number of samples in a bound probe, and the sample axis of each of its `inputs`; see `find_axes`."""
    declared = {name: axis for name, axis in declared_axes(probe).items() if name in inputs}
    return find_axes({name: probe[name].shape for name in inputs}, declared)


def reordered(probe: Mapping[str, Array], axes: Mapping[str, int], order: Array) -> dict[str, Array]:
    """Return a bound probe with its samples in a different order; inputs that are the same for all stay unchanged."""
    return {
        name: array if axes.get(name, FIXED) == FIXED else np.take(array, order, axis=axes[name])
        for name, array in probe.items()
    }


def sample_first(array: Array, axis: int, samples: int) -> Array:
    """Return an array as (sample, unit), given its sample axis; -1 means a leading axis of samples × something."""
    if axis > 0:
        array = np.moveaxis(array, axis, 0)
    return array.reshape(samples, -1)
