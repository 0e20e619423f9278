"""The probe: the fixed inputs on which activation patterns are measured."""

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from regime_proto.checkpoints.archives import read_arrays, read_npy
from regime_proto.program.sample_axes import AXIS, FIXED, AxisError, axes_of
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.nearest import nearest, no_such
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

FILE_NAME = "probe.npz"
SUFFIXES = (".npz", ".npy", ".safetensors")

COUNTED = "regime_mask"
"""The reserved name of an array (sample, token), bool: False for padding, which is not counted."""


class ProbeError(RegimeError):
    """A probe that cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class Probe:
    """The inputs of a model for several samples.

    The first axis of an array is the sample, unless `sample_axes` finds a different one or none.

    Parameters
    ----------
    arrays : tuple of array
    names : tuple of str, or None
        Names of the model's inputs, or reserved names: `COUNTED`, and names that begin with
        `sample_axes.AXIS`. None binds arrays in order.
    where : str
        Named in errors.
    """

    arrays: tuple[Array, ...]
    names: tuple[str, ...] | None
    where: str

    def __post_init__(self) -> None:
        if not self.arrays:
            raise ProbeError(f"{self.where}: holds no arrays")
        for label, array in self._labelled.items():
            if array.dtype.kind not in "fiub":
                raise ProbeError(f"{self.where}: {label} holds {array.dtype}; expected numbers")
        self._check_counted()
        if not self._inputs:
            raise ProbeError(f"{self.where}: holds only reserved arrays, and no input of the model")
        for label, array in self._inputs.items():
            # A mask that is the same for all samples may legitimately hold −Inf.
            wrong = np.isnan(array) if self._axes[label] == FIXED else ~np.isfinite(array)
            if array.dtype.kind == "f" and wrong.any():
                raise ProbeError(f"{self.where}: {label} holds NaN or Inf; remove those samples")

    def _check_counted(self) -> None:
        counted = self.counted
        if counted is None:
            return
        found = f"{counted.dtype.name}{list(counted.shape)}"
        if counted.dtype != np.bool_ or counted.ndim != 2:
            raise ProbeError(f"{self.where}: {COUNTED} is {found}, expected bool[samples, tokens], False for padding")
        if not counted.any():
            raise ProbeError(
                f"{self.where}: {COUNTED} is False everywhere, so that no token counts; set it True for real tokens"
            )
        if len(self.arrays) == 1:
            raise ProbeError(f"{self.where}: holds only {COUNTED}, and no input of the model")
        if self._inputs and len(counted) != self.samples:
            raise ProbeError(
                f"{self.where}: {COUNTED} has {len(counted)} samples, the inputs have "
                f"{self.samples}; expected the same number, 1 or more, in every array"
            )

    @cached_property
    def _labelled(self) -> dict[str, Array]:
        labels = self.names or tuple(f"array {index}" for index in range(len(self.arrays)))
        return dict(zip(labels, self.arrays, strict=True))

    @cached_property
    def _inputs(self) -> dict[str, Array]:
        return {label: array for label, array in self._labelled.items() if not _is_reserved(label)}

    @cached_property
    def _layout(self) -> tuple[int, dict[str, int]]:
        try:
            return axes_of(self._labelled, list(self._inputs))
        except AxisError as error:
            raise ProbeError(f"{self.where}: {error}") from None

    @property
    def _axes(self) -> dict[str, int]:
        return self._layout[1]

    @property
    def counted(self) -> Array | None:
        """The tokens that count, (sample, token) bool; None if all do."""
        return self._labelled.get(COUNTED)

    @property
    def samples(self) -> int:
        """Number of samples, ``|S|``."""
        return self._layout[0]

    @property
    def inputs(self) -> tuple[str, ...] | None:
        """The names of the arrays that are inputs of the model; None if the arrays have no names."""
        return None if self.names is None else tuple(self._inputs)

    def bind(self, inputs: Sequence[str]) -> dict[str, Array]:
        """Return the arrays by input name, without reserved ones.

        Parameters
        ----------
        inputs : sequence of str
            The model's inputs, in order.

        Raises
        ------
        ProbeError
            A name is not an input, or there are more arrays than inputs.
        """
        return {name: self._inputs[label] for name, label in self._bound(inputs).items()}

    def complete(self, inputs: Sequence[str]) -> dict[str, Array]:
        """Return the arrays by input name, and the reserved ones: the probe to measure, and to store.

        Sample axes other than the first are included, whether declared or found. If the model has
        one input, a single array with a different name is used for it, with a warning.

        Parameters
        ----------
        inputs : sequence of str
            As in `bind`, which raises the same errors.
        """
        bound = self._bound(inputs)
        for name, label in bound.items():
            if self.names is not None and label != name != renamed_input(label):
                warnings.warn(
                    f"{self.where}: array {label!r} is used for {name!r}, the only input of the model",
                    RegimeWarning,
                    stacklevel=3,
                )
        counted = {} if self.counted is None else {COUNTED: self.counted}
        axes = {f"{AXIS}{name}": np.array(self._axes[label]) for name, label in bound.items() if self._axes[label]}
        return {**{name: self._inputs[label] for name, label in bound.items()}, **counted, **axes}

    def _bound(self, inputs: Sequence[str]) -> dict[str, str]:
        """Return the label of the array for each input that has one."""
        labels = list(self._inputs)
        if self.names is None:
            if len(labels) > len(inputs):
                raise ProbeError(
                    f"{self.where}: {counted(len(labels), 'array')} for "
                    f"{counted(len(inputs), 'input')} ({', '.join(inputs)})"
                )
            return dict(zip(inputs, labels, strict=False))
        if len(labels) == len(inputs) == 1:
            return {inputs[0]: labels[0]}
        bound = {}
        for label in labels:
            name = next((name for name in (label, renamed_input(label)) if name in inputs), None)
            if name is None:
                raise ProbeError(
                    f"{self.where}: array {label!r} is not an input of the model; its inputs are "
                    f"{', '.join(inputs)}{nearest(label, inputs)}"
                )
            bound[name] = label
        return bound


def renamed_input(name: str) -> str:
    """Return the name, in a program, of an input that has the same name as one of the model's tensors."""
    # No function argument can have this name.
    return f"input:{name}"


def _is_reserved(name: str) -> bool:
    return name == COUNTED or name.startswith(AXIS)


def probe_content(arrays: Mapping[str, Array]) -> bytes:
    """Return bound arrays as the content of an .npz file; equal arrays give equal content."""
    buffer = io.BytesIO()
    # Not numpy.savez_compressed, which would treat the names as its own arguments.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def probe_sha256(arrays: Mapping[str, Array]) -> str:
    """Return the hash of bound arrays: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def as_probe(probe: object) -> Probe:
    """Return a probe from a path, an array, a sequence or mapping of arrays, or a probe.

    Anything that NumPy can view as an array counts as one, including CPU tensors.
    """
    if isinstance(probe, Probe):
        return probe
    if isinstance(probe, str | Path):
        return load_probe(Path(probe))
    if isinstance(probe, Mapping):
        return Probe(tuple(_array(array) for array in probe.values()), tuple(map(str, probe)), "probe")
    if isinstance(probe, list | tuple):
        return Probe(tuple(_array(array) for array in probe), None, "probe")
    return Probe((_array(probe),), None, "probe")


def _array(value: object) -> Array:
    try:
        return np.asarray(value)
    except Exception as error:
        raise ProbeError(
            f"probe: {type(value).__name__} cannot be viewed as an array ({error}); pass numpy arrays or CPU tensors"
        ) from None


def load_probe(path: Path) -> Probe:
    """Read a probe from .npz, .npy or .safetensors.

    Raises
    ------
    ProbeError
        The file cannot be read, or its arrays do not form a probe.
    """
    if not path.is_file():
        raise ProbeError(no_such(path, "file"))
    try:
        if path.suffix == ".npy":
            return Probe((read_npy(path),), None, str(path))
        if path.suffix == ".npz":
            arrays = read_arrays(path)
        elif path.suffix == ".safetensors":
            arrays = _load_safetensors(path)
        else:
            raise ProbeError(
                f"{path}: expected a probe in {', '.join(SUFFIXES)}; to save a tensor: "
                "numpy.save('probe.npy', x.numpy())"
            )
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, NotImplementedError, zlib.error) as error:
        raise ProbeError(f"{path}: cannot be read as a probe ({error})") from None
    unnamed = all(name == f"arr_{index}" for index, name in enumerate(arrays))
    return Probe(tuple(arrays.values()), None if unnamed else tuple(arrays), str(path))


def load_lines(path: Path) -> list[str]:
    """Read samples of text, one per line; empty lines are skipped.

    Raises
    ------
    ProbeError
        The file is missing, is not UTF-8 text, or holds no line.
    """
    if not path.is_file():
        raise ProbeError(no_such(path, "file; expected text, one sample per line"))
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: not UTF-8 (byte {error.start}); expected text, one sample per line") from None
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read as text ({error})") from None
    samples = [line.strip() for line in lines if line.strip()]
    if not samples:
        raise ProbeError(f"{path}: holds no line of text; expected one sample per line")
    return samples


def _load_safetensors(path: Path) -> dict[str, Array]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ProbeError(f'{path}: reading it needs safetensors: pip install "regime-proto[cpu]"') from None
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ProbeError(f"{path}: cannot be read as a probe ({error})") from None
