"""Checks the values of a file against the rules, one block of rows at a time."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Layer
from regime_proto.schema.policy import policy_of
from regime_proto.schema.reader import read_layers, read_quantities, row_blocks
from regime_proto.schema.types import Array
from regime_proto.schema.validation.rules import Problem
from regime_proto.schema.validation.strings import dataset_bytes, is_variable
from regime_proto.schema.words import counted

# HDF5 needs some kilobytes for every chunk of a selection, and every sample has its own chunk of masks.
SAMPLES = 4096


def fixed_problems(file: h5py.File) -> Iterator[Problem]:
    """Yield the problems of the values that every reader reads completely: steps, names, layers."""
    yield from _step_problems(file)
    yield from _name_problems(file)
    yield from _layer_problems(file)


def row_problems(file: h5py.File, *, in_run: bool = False) -> Iterator[Problem]:
    """Yield the problems of the rows, after `fixed_problems` found none.

    Parameters
    ----------
    file : h5py.File
    in_run : bool
        Whether the file is a segment of a run, which may begin with the change to its first row.
    """
    is_first = not (in_run and _first_observation(file))
    yield from _delta_problems(file, is_first=is_first)
    if is_first:
        yield from _first_quantity_problems(file)
    yield from _flip_problems(file, is_first=is_first)
    yield from _mask_problems(file)
    yield from _digest_problems(file)


def _step_problems(file: h5py.File) -> Iterator[Problem]:
    steps, masks = file["step"][...], file["mask_step"][...]
    if not len(steps):
        yield Problem("step-some", "/step", "at least one observation", "none")
        return
    for name, values in (("step", steps), ("mask_step", masks)):
        wrong = np.flatnonzero(values[1:] <= values[:-1])
        if len(wrong):
            rule = "step-order" if name == "step" else "mask-step"
            found = f"{values[wrong[0] + 1]} after {values[wrong[0]]}"
            yield Problem(rule, f"/{name}", "steps that increase strictly", found)
    strangers = masks[~np.isin(masks, steps)]
    if len(strangers):
        yield Problem("mask-step", "/mask_step", "values of step", str(strangers[0]))
        return
    yield from _policy_problems(file, steps, masks)
    valid = file["valid"][...]
    if np.any(valid > 1):
        yield Problem("valid-value", "/valid", "0 or 1", str(valid.max()))


def _policy_problems(file: h5py.File, steps: Array, masks: Array) -> Iterator[Problem]:
    try:
        policy = policy_of(file.attrs)
    except RegimeError:
        yield Problem("mask-policy", "/@mask_policy", "all, none or every=N", repr(file.attrs["mask_policy"]))
        return
    expected = policy.chosen(steps, _first_observation(file))
    if not np.array_equal(masks, expected):
        found = f"{len(masks)}, or different steps"
        yield Problem(
            "mask-policy", "/mask_step", f"{counted(len(expected), 'step')}, as mask_policy {policy} says", found
        )


def _first_observation(file: h5py.File) -> int:
    """Return the number of the first observation; a segment continues where the previous one ended."""
    return int(file.attrs.get("first_observation", 0))


def _name_problems(file: h5py.File) -> Iterator[Problem]:
    for name in (layout.TENSOR, layout.LAYER, "layer_op", "layer_kind", "layer_path"):
        try:
            found = list(file[name].asstr()[...])
        except UnicodeDecodeError:
            yield Problem("name-unique", f"/{name}", "UTF-8", "other bytes")
            continue
        if name in (layout.TENSOR, layout.LAYER) and ("" in found or len(set(found)) < len(found)):
            yield Problem("name-unique", f"/{name}", "unique names, none empty", "an empty or repeated name")
        if _holds_nul(file[name], found):
            yield Problem("name-unique", f"/{name}", "text without NUL", "a NUL")
        if name == "layer_kind" and not set(found) <= set(layout.LAYER_KINDS):
            wrong = next(kind for kind in found if kind not in layout.LAYER_KINDS)
            yield Problem("layer-kind", "/layer_kind", " or ".join(layout.LAYER_KINDS), repr(wrong))


def _holds_nul(stored: h5py.Dataset, found: list[str]) -> bool:
    """Whether any text in a variable continues after a NUL, at which most libraries end it."""
    if not is_variable(stored.id.get_type()):
        return any("\0" in text for text in found)
    read = sum(len(text.encode()) for text in found)
    return dataset_bytes(stored.id, stored.file.id.get_filesize()) > read


def _layer_problems(file: h5py.File) -> Iterator[Problem]:
    sizes, planes = file["layer_size"][...], file["layer_planes"][...]
    tensors, thresholds = file["tensor_size"][...], file["layer_threshold"][...]
    if tensors.min() < 0 or sizes.min() < 1 or planes.min() < 1 or planes.max() > thresholds.shape[1]:
        expected = f"at least one unit and 1 to {thresholds.shape[1]} planes per layer, no negative size"
        yield Problem("layer-size", "/layer_size", expected, "a smaller or larger number")
        return
    beyond = np.arange(thresholds.shape[1]) >= planes[:, None]
    falling = (np.diff(thresholds) <= 0) & ~beyond[:, 1:]
    if np.any(np.isnan(thresholds) != beyond) or np.any(np.isinf(thresholds)) or np.any(falling):
        yield Problem("layer-threshold", "/layer_threshold", "increasing numbers, NaN beyond layer_planes", "others")
    widths = sizes
    if "unit_index" in file:
        index = file["unit_index"][...]
        widths = (index >= 0).sum(axis=1)
        yield from _unit_index_problems(index, sizes)
    units = file["layer_units"][...]
    if np.any(units < 0) or np.any(units > widths[:, None]):
        yield Problem("layer-units", "/layer_units", "0 to the stored units of the layer", "another number")
    # In Python integers: the sizes in a foreign file may be so large that sums wrap around.
    lengths = [layout.packed_bytes(int(width), int(count)) for width, count in zip(widths, planes, strict=True)]
    stops = list(itertools.accumulate(lengths))
    starts = [0, *stops[:-1]]
    if [file["layer_byte_start"][...].tolist(), file["layer_byte_stop"][...].tolist()] != [starts, stops]:
        yield Problem("layer-bytes", "/layer_byte_start", "consecutive layers in their packed sizes", "others")
    elif file["mask"].shape[2] != stops[-1]:
        yield Problem("layer-bytes", "/mask", f"{stops[-1]} bytes per sample", str(file["mask"].shape[2]))


def _unit_index_problems(index: Array, sizes: Array) -> Iterator[Problem]:
    kept = index >= 0
    # Increasing, and -1 after the first -1.
    falling = kept[:, 1:] & (np.diff(index) <= 0)
    if np.any(kept[:, 1:] & ~kept[:, :-1]) or np.any(falling) or np.any(index >= sizes[:, None]) or index.min() < -1:
        yield Problem("unit-index", "/unit_index", "increasing units below layer_size, then -1", "others")


def _delta_problems(file: h5py.File, *, is_first: bool) -> Iterator[Problem]:
    valid = file["valid"][...].astype(bool)
    both = valid & np.concatenate([[False], valid[:-1]])
    known = (name for name in ("weight_delta_l1", "weight_delta_l2", "weight_distance_l2", "flip_fraction_error"))
    for name in known:
        if name not in file:
            continue
        first = file[name][0]
        nothing = np.isnan(first) if name.startswith("weight_delta") else first == 0
        if not valid[0]:
            # A state that is not finite has no distance from itself.
            nothing |= np.isnan(first)
        if is_first and not nothing.all():
            expected = "NaN" if name.startswith("weight_delta") else "0"
            yield Problem("first-row", f"/{name}", f"{expected} in the first row", "others")
        for rows, values in row_blocks(file[name]):
            wrong = np.any(values < 0, axis=1) | (both[rows] & ~np.isfinite(values).all(axis=1))
            if wrong.any():
                at = rows.start + int(np.flatnonzero(wrong)[0])
                yield Problem("delta-value", f"/{name}", "finite numbers of at least 0", f"others in row {at}")
                break


def _first_quantity_problems(file: h5py.File) -> Iterator[Problem]:
    for quantity in read_quantities(file):
        name = quantity.variable.name
        if quantity.against == "previous" and not np.isnan(file[name][0]).all():
            yield Problem("first-row", f"/{name}", "NaN in the first row", "numbers")


def _flip_problems(file: h5py.File, *, is_first: bool) -> Iterator[Problem]:
    flips, units = file["flips"], file["layer_units"][...]
    if is_first and np.any(flips[0]):
        yield Problem("first-row", "/flips", "0 in the first row", "flips")
    for rows, values in row_blocks(flips):
        wrong = np.any(values > units, axis=(1, 2))
        if wrong.any():
            at = rows.start + int(np.flatnonzero(wrong)[0])
            yield Problem("flips-bound", "/flips", "at most layer_units", f"more in row {at}")
            return


def _mask_problems(file: h5py.File) -> Iterator[Problem]:
    layers = read_layers(file)
    counter, padding = FlipCounter(layers), _padding(layers)
    for start in range(0, file["mask"].shape[1], SAMPLES):
        problem = _wrong_masks(file, counter, padding, slice(start, start + SAMPLES))
        if problem is not None:
            yield problem
            return


def _wrong_masks(file: h5py.File, counter: FlipCounter, padding: Array, samples: slice) -> Problem | None:
    """Return the problems of the masks of these samples, and of the flips between them."""
    # The observation of each mask.
    numbers = np.searchsorted(file["step"][...], file["mask_step"][...])
    before: Array | None = None
    for rows, masks in row_blocks(file["mask"], samples):
        for sample in range(masks.shape[1]):
            wrong = np.any(masks[:, sample] & padding, axis=1)
            if wrong.any():
                found = f"1 in row {rows.start + int(np.flatnonzero(wrong)[0])}, sample {samples.start + sample}"
                return Problem("mask-padding", "/mask", "0 beyond a layer's last unit", found)
        before = masks[:0] if before is None else before
        held = numbers[rows.start - len(before) : rows.stop]
        row = _wrong_flips(file["flips"], counter, held, before, masks, samples)
        if row is not None:
            found = f"other numbers in row {row}"
            return Problem("mask-flips", "/flips", "the units in which neighbouring masks differ", found)
        before = masks[-1:]
    return None


def _wrong_flips(
    stored: h5py.Dataset, counter: FlipCounter, numbers: Array, before: Array, masks: Array, samples: slice
) -> int | None:
    """Return the first row of flips that is not the difference between its masks and the previous ones, if any."""
    neighbours = np.flatnonzero(np.diff(numbers) == 1)
    if not len(neighbours):
        return None
    flips = stored[numbers[neighbours[0]] + 1 : numbers[neighbours[-1]] + 2, :, samples]
    rows = numbers[neighbours] + 1
    for sample in range(masks.shape[1]):
        held = np.concatenate([before[:, sample], masks[:, sample]])
        counts = counter.count(held[neighbours + 1], held[neighbours])
        wrong = np.any(flips[rows - rows[0], :, sample] != counts.T, axis=1)
        if wrong.any():
            return int(rows[np.flatnonzero(wrong)[0]])
    return None


def _padding(layers: Sequence[Layer]) -> Array:
    """Return the bits of a sample's mask that do not belong to any unit."""
    padding = [
        np.packbits(np.arange(-(-layer.width // 8) * 8) >= layer.width) for layer in layers for _ in layer.thresholds
    ]
    return np.concatenate(padding)


def _digest_problems(file: h5py.File) -> Iterator[Problem]:
    expected: Any = file.attrs.get("program_sha256")
    if expected is None or layout.PROGRAM not in file:
        return
    found = hashlib.sha256(file[layout.PROGRAM][...].tobytes()).hexdigest()
    if found != expected:
        yield Problem("embedded-digest", "/program", f"SHA-256 {expected}", found)
