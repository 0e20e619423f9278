"""The probe: the fixed inputs on which the patterns are read."""

import difflib
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from regime_proto.archives import read_arrays, read_npy
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import no_such
from regime_proto.source import Array

FILE_NAME = "probe.npz"
SUFFIXES = (".npz", ".npy", ".safetensors")

COUNTED = "regime_mask"
"""The reserved name of an array (sample, token), bool: False for padding, which does not count."""


class ProbeError(RegimeError):
    """A probe cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class Probe:
    """Arrays whose first axis is the sample.

    Parameters
    ----------
    arrays : tuple of array
    names : tuple of str, or None
        Names of the model's inputs; None binds in order.
    where : str
        Named in errors.
    """

    arrays: tuple[Array, ...]
    names: tuple[str, ...] | None
    where: str

    def __post_init__(self) -> None:
        if not self.arrays:
            raise ProbeError(f"{self.where}: holds no array")
        labels = self.names or tuple(f"array {index}" for index in range(len(self.arrays)))
        for label, array in zip(labels, self.arrays, strict=True):
            if array.ndim == 0:
                raise ProbeError(f"{self.where}: {label} is a single number; the first axis must be the sample")
            if array.dtype.kind not in "fiub":
                raise ProbeError(f"{self.where}: {label} holds {array.dtype}; expected numbers")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ProbeError(f"{self.where}: {label} holds NaN or Inf; remove those samples")
        lengths = {label: len(array) for label, array in zip(labels, self.arrays, strict=True)}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            found = ", ".join(f"{label}: {length}" for label, length in lengths.items())
            raise ProbeError(f"{self.where}: expected one number of samples, 1 or more, in every array; found {found}")
        self._check_counted()

    def _check_counted(self) -> None:
        counted = self.counted
        if counted is None:
            return
        found = f"{counted.dtype.name}{list(counted.shape)}"
        if counted.dtype != np.bool_ or counted.ndim != 2:
            raise ProbeError(f"{self.where}: {COUNTED} is {found}, expected bool[samples, tokens], False for padding")
        if not counted.any():
            raise ProbeError(f"{self.where}: {COUNTED} is False everywhere: no token counts")
        if len(self.arrays) == 1:
            raise ProbeError(f"{self.where}: holds {COUNTED} only, and no input of the model")

    @property
    def counted(self) -> Array | None:
        """Which tokens count, (sample, token) bool; None if all do."""
        return dict(zip(self.names or (), self.arrays, strict=False)).get(COUNTED)

    @property
    def samples(self) -> int:
        """Number of samples, ``|S|``."""
        return len(self.arrays[0])

    def bind(self, inputs: Sequence[str]) -> dict[str, Array]:
        """Return the arrays by input name, without `COUNTED`.

        Parameters
        ----------
        inputs : sequence of str
            The model's inputs, in order.

        Raises
        ------
        ProbeError
            A name is not an input, or there are more arrays than inputs.
        """
        if self.names is None:
            if len(self.arrays) > len(inputs):
                raise ProbeError(
                    f"{self.where}: {len(self.arrays)} arrays for {len(inputs)} inputs ({', '.join(inputs)})"
                )
            return dict(zip(inputs, self.arrays, strict=False))
        given = {name: array for name, array in zip(self.names, self.arrays, strict=True) if name != COUNTED}
        for name in given:
            if name not in inputs:
                near = difflib.get_close_matches(name, inputs, n=1)
                raise ProbeError(
                    f"{self.where}: array {name!r} is no input of the model; its inputs are {', '.join(inputs)}"
                    + (f" (nearest: {near[0]!r})" if near else "")
                )
        return given


def probe_content(arrays: Mapping[str, Array]) -> bytes:
    """Return bound arrays as the content of an .npz file, the same for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
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
    """Return a probe from a path, an array, a sequence or a mapping of arrays, or a probe.

    Anything that numpy can view as an array counts as one, tensors on the CPU among them.
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
        The file cannot be read, or its arrays are no probe.
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
            raise ProbeError(f"{path}: expected a probe in {', '.join(SUFFIXES)}")
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, NotImplementedError, zlib.error) as error:
        raise ProbeError(f"{path}: cannot be read as a probe ({error})") from None
    unnamed = all(name == f"arr_{index}" for index, name in enumerate(arrays))
    return Probe(tuple(arrays.values()), None if unnamed else tuple(arrays), str(path))


def load_lines(path: Path) -> list[str]:
    """Read samples of text, one a line; empty lines are left out.

    Raises
    ------
    ProbeError
        The file is absent, holds no text in UTF-8, or no line.
    """
    if not path.is_file():
        raise ProbeError(no_such(path, "file; expected text, one sample a line"))
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: not UTF-8 (byte {error.start}); expected text, one sample a line") from None
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read as text ({error})") from None
    samples = [line.strip() for line in lines if line.strip()]
    if not samples:
        raise ProbeError(f"{path}: holds no line of text; expected one sample a line")
    return samples


def _load_safetensors(path: Path) -> dict[str, Array]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ProbeError(f'{path}: needs safetensors: pip install "regime-proto[cpu]"') from None
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ProbeError(f"{path}: cannot be read as a probe ({error})") from None
