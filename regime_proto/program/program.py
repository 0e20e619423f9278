"""The program: a forward graph in ONNX whose weights are graph inputs, and a description of its tensors."""

import hashlib
import json
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from regime_proto.checkpoints.deferred import loaded
from regime_proto.checkpoints.opening import read_whole
from regime_proto.checkpoints.source import State
from regime_proto.program.tensor_matching import matched
from regime_proto.program.values import tensors
from regime_proto.runtime.ir import ir
from regime_proto.schema.dtypes import is_real
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file
from regime_proto.schema.nearest import cannot_open, nearest
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

METADATA_KEY = "regime_proto"
FILE_NAME = "program.onnx"
SHOWN = 3
_OTHER_MODEL = "was it saved from a different model?"


class ProgramError(RegimeError):
    """A program that cannot be read, or a parameter state that does not fit it."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that the checkpoints hold.

    Parameters
    ----------
    name : str
        Its name in the checkpoint; for a tied tensor, the first of its names.
    shape : tuple of int
    trainable : bool
        Whether it is part of Δw. Running statistics and counters are not.
    aliases : tuple of str
        Further names of the same tensor; a checkpoint may use any of them.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names."""
        return (self.name, *self.aliases)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Input:
    """An input array of a program.

    Parameters
    ----------
    name : str
    shape : tuple of int
    dtype : str
        NumPy name, for example ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Program:
    """A forward graph with its weights as inputs.

    Parameters
    ----------
    content : bytes
        The serialized ONNX model, without weights.
    tensors : tuple of Tensor
        All tensors of a checkpoint, in its order, whether in the graph or not.
    probe_inputs : tuple of str
        The graph inputs that receive the probe.
    framework : mapping of str to str
        Names and versions of the libraries that exported the graph.
    fixed : mapping of str to number, optional
        The inputs whose value is fixed in the graph, such as one that chooses a branch.
    sample_axes : mapping of str to int, optional
        By input, if it is not the first axis; see `sample_axes.find_axes`.
    """

    content: bytes
    tensors: tuple[Tensor, ...]
    probe_inputs: tuple[str, ...]
    framework: Mapping[str, str]
    fixed: Mapping[str, float] = field(default_factory=dict)
    sample_axes: Mapping[str, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # A different process recomputes the cached values, such as the graph.
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_model(
        cls,
        model: ir.Model,
        *,
        tensors: Iterable[Tensor],
        probe_inputs: Iterable[str],
        framework: Mapping[str, str],
        fixed: Mapping[str, float] | None = None,
        sample_axes: Mapping[str, int] | None = None,
    ) -> "Program":
        """Create a program from an ONNX graph whose weights are already inputs (see `rewrite.LiftWeights`)."""
        tensors, probe_inputs = tuple(tensors), tuple(probe_inputs)
        description = {
            "version": "1.0",
            "tensors": [asdict(tensor) for tensor in tensors],
            "probe_inputs": probe_inputs,
            "framework": dict(framework),
            **({"fixed": dict(fixed)} if fixed else {}),
            **({"sample_axes": dict(sample_axes)} if sample_axes else {}),
        }
        model.metadata_props.clear()
        model.metadata_props[METADATA_KEY] = json.dumps(description)
        content = ir.to_proto(model).SerializeToString(deterministic=True)
        return cls(content, tensors, probe_inputs, framework, fixed or {}, sample_axes or {})

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Read a program file.

        Raises
        ------
        ProgramError
            The file is missing, is not an ONNX model, or was not written by `regime program`.
        """
        try:
            content = read_whole(path)
        except OSError as error:
            raise ProgramError(cannot_open(path, error)) from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, where: str) -> "Program":
        """Create a program from the bytes of its file."""
        try:
            model = ir.from_proto(onnx.ModelProto.FromString(content))
        except Exception as error:
            raise ProgramError(f"{where}: not an ONNX model ({error})") from None
        if METADATA_KEY not in model.metadata_props:
            raise ProgramError(
                f"{where}: an ONNX model, but not a program with its weights as inputs; write one "
                "with `regime program --model MODULE:FACTORY --probe FILE -o DIR`, or with "
                "`--model FILE.onnx` if the checkpoints hold that file's initializers"
            )
        if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model)):
            raise ProgramError(f"{where}: refers to data in other files, which a program never does; do not trust it")
        try:
            description = json.loads(model.metadata_props[METADATA_KEY])
            held = tuple(_tensor(entry) for entry in description["tensors"])
            inputs, framework = tuple(map(str, description["probe_inputs"])), dict(description["framework"])
            fixed = {name: float(value) for name, value in description.get("fixed", {}).items()}
            axes = {name: int(axis) for name, axis in description.get("sample_axes", {}).items()}
            return cls(content, held, inputs, framework, fixed, axes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProgramError(f"{where}: damaged program description ({error!r})") from None

    def with_sample_axes(self, axes: Mapping[str, int]) -> "Program":
        """Return the program with the sample axes of its inputs recorded, if they are not all the first axis."""
        elsewhere = {name: axis for name, axis in axes.items() if axis}
        if elsewhere == self.sample_axes:
            return self
        return Program.from_model(
            self.parse_model(),
            tensors=self.tensors,
            probe_inputs=self.probe_inputs,
            framework=self.framework,
            fixed=self.fixed,
            sample_axes=elsewhere,
        )

    @property
    def samples(self) -> int:
        """Number of samples, ``|S|``, that the graph is fixed to."""
        for name, spec in self.inputs.items():
            axis = self.sample_axes.get(name, 0)
            if 0 <= axis < len(spec.shape):
                return spec.shape[axis]
        raise ProgramError("no input of the program has a sample axis; export it again, with the probe")

    def save(self, path: Path) -> None:
        """Write the program file."""
        replace_file(path, self.content)

    @cached_property
    def model(self) -> ir.Model:
        """The graph. Treat it as read-only; `parse_model` returns a copy that may be changed."""
        return self.parse_model()

    def parse_model(self) -> ir.Model:
        """Return a fresh copy of the graph."""
        model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(self.content))
        return model

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def trainable(self) -> tuple[Tensor, ...]:
        """The tensors that are part of Δw."""
        return tuple(tensor for tensor in self.tensors if tensor.trainable)

    @cached_property
    def inputs(self) -> dict[str, Input]:
        """The probe arrays that are inputs of the graph, by name."""
        by_name = {value.name: value for value in self.model.graph.inputs}
        return {name: _input(by_name[name]) for name in self.probe_inputs}

    @cached_property
    def weight_inputs(self) -> dict[str, Input]:
        """The tensors that are inputs of the graph, by name."""
        return {
            str(value.name): _input(value) for value in self.model.graph.inputs if value.name not in self.probe_inputs
        }

    def bind(self, state: State, where: str, *, lazily: bool = False) -> dict[str, Array]:
        """Return the arrays of `state` under the program's names.

        Parameters
        ----------
        state : State
        where : str
            Named in errors, for example the checkpoint's path.
        lazily : bool
            Do not load `deferred` tensors.

        Returns
        -------
        dict of str to array
            Every trainable tensor and every weight input of the graph.

        Raises
        ------
        ProgramError
            Tensors are missing, unknown, of a different shape, or do not hold real numbers.
        """
        known = self._names
        trained = [(tensor.names, tensor.shape) for tensor in self.trainable]
        tensors = matched(state.tensors, known, trained)
        held = {tensor: next(filter(tensors.__contains__, tensor.names), None) for tensor in self.tensors}
        missing = [tensor for tensor, name in held.items() if name is None and self._needs(tensor)]
        unknown = [
            name
            for name, array in tensors.items()
            if name not in known and not _is_counter(array) and not self._is_constant(name, array, where)
        ]
        if missing:
            raise ProgramError(f"{where}: {_lacking(missing, unknown, tensors)}")
        if unknown:
            raise ProgramError(f"{where}: {_listed(unknown, 'not in the program', known)}; {_OTHER_MODEL}")
        bound = {tensor: tensors[name] for tensor, name in held.items() if name is not None}
        _require_shapes(bound, where)
        _require_real(bound, where)
        return {tensor.name: array if lazily else loaded(array) for tensor, array in bound.items()}

    @cached_property
    def _names(self) -> frozenset[str]:
        """All names of all tensors."""
        return frozenset(name for tensor in self.tensors for name in tensor.names)

    def _is_constant(self, name: str, array: Array, where: str) -> bool:
        """Whether a tensor is a constant of the graph.

        Raises
        ------
        ProgramError
            It is, but with different values.
        """
        value = self.model.graph.initializers.get(name)
        if value is None or value.const_value is None:
            return False
        if not np.array_equal(value.const_value.numpy(), loaded(array), equal_nan=array.dtype.kind == "f"):
            raise ProgramError(
                f"{where}: {name} differs from the constant of that name in the program; export "
                "the program again, from the model of these checkpoints"
            )
        return True

    def _needs(self, tensor: Tensor) -> bool:
        return tensor.trainable or tensor.name in self.weight_inputs


def _is_counter(array: Array) -> bool:
    """Whether a tensor is a single integer, which no graph needs: BatchNorm of PyTorch counts its batches in one."""
    return array.shape == () and array.dtype.kind in "iu"


def _lacking(missing: Sequence[Tensor], unknown: list[str], held: Collection[str]) -> str:
    """Return a message with the tensors that a checkpoint lacks, and the likely reason."""
    statistics = not unknown and not any(tensor.trainable for tensor in missing)
    why = "save the model's complete state, including running statistics" if statistics else _OTHER_MODEL
    return f"{_listed([tensor.name for tensor in missing], 'missing', unknown or held)}; {why}"


def _require_shapes(bound: Mapping[Tensor, Array], where: str) -> None:
    wrong = [
        f"{tensor.name} is {list(array.shape)}, but the program expects {list(tensor.shape)}"
        for tensor, array in bound.items()
        if array.shape != tensor.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
        raise ProgramError(f"{where}: {'; '.join(wrong[:SHOWN])}{more}; {_OTHER_MODEL}")


def _require_real(bound: Mapping[Tensor, Array], where: str) -> None:
    for tensor, array in bound.items():
        if not is_real(array.dtype):
            raise ProgramError(
                f"{where}: {tensor.name} is {array.dtype}; expected real numbers; save the real "
                "and imaginary parts as separate tensors"
            )


def _tensor(entry: dict[str, Any]) -> Tensor:
    shape = tuple(map(operator.index, entry["shape"]))
    return Tensor(str(entry["name"]), shape, bool(entry["trainable"]), tuple(map(str, entry["aliases"])))


def _input(value: ir.Value) -> Input:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        raise ProgramError(f"input {value.name} of the program has no fixed shape; export it with the probe")
    return Input(str(value.name), tuple(int(length) for length in value.shape), value.dtype.numpy().name)  # type: ignore[arg-type]


def _listed(names: list[str], what: str, candidates: Collection[str]) -> str:
    """Return a few of `names`, each with the most similar candidate."""
    shown = [f"{name!r}{nearest(name, candidates)}" for name in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{counted(len(names), 'tensor')} {what}: {', '.join(shown)}{more}"
