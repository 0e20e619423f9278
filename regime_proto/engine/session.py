"""A session that runs a program's graph from weights to masks; one serves the whole sequence of states."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from regime_proto.program.beside_masks import (
    FINGERPRINT,
    NOTHING,
    Beside,
    Output,
    expose,
    margin_name,
    region_name,
    square_name,
)
from regime_proto.program.gates import Gate
from regime_proto.program.mask_outputs import PACKED, TOTAL, CastWeights, ExposeMasks, NudgeWeights, Rows, plane_name
from regime_proto.program.program import Program
from regime_proto.program.sample_axes import sample_first
from regime_proto.program.sequences import SplitWithoutSequences
from regime_proto.program.values import FLOATS
from regime_proto.runtime.device import Device, Placed
from regime_proto.runtime.ir import ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Seen:
    """Results of a pass in addition to the masks, each set only if requested.

    Parameters
    ----------
    regions : tuple of placed arrays
        Bool, on the device, in the shapes of the gates, ordered by gate, then by plane.
    outputs : (sample, output) float, optional
    margins, squares : (layer, sample) float, optional
        See `beside_masks`.
    fingerprint : (sample, feature) float, optional
    """

    regions: tuple[Placed, ...] = ()
    outputs: Array | None = None
    margins: Array | None = None
    squares: Array | None = None
    fingerprint: Array | None = None


NOTHING_SEEN = Seen()


@dataclass(frozen=True)
class Masks:
    """The masks of one state.

    Parameters
    ----------
    planes : tuple of placed arrays
        Bool, ordered by gate, then by plane; on the device if it keeps them, otherwise on the host.
    packed : (sample, byte) uint8 or None
        The masks packed by the device.
    finite : bool
        Whether no activation was NaN or Inf.
    seen : Seen
    """

    planes: tuple[Placed, ...]
    packed: Array | None
    finite: bool
    seen: Seen = NOTHING_SEEN


@dataclass(frozen=True)
class Running:
    """Settings of a session.

    Parameters
    ----------
    threads : int
        Threads per pass; 1 if several passes run at once.
    brief : bool
        Whether only a few states will run.
    beside : Beside
        Results of a pass in addition to the masks; they require `rows`.
    """

    threads: int = 1
    brief: bool = False
    beside: Beside = NOTHING


STEADILY, BRIEFLY = Running(), Running(brief=True)


def mask_graph(
    program: Program,
    gates: Sequence[Gate],
    *,
    dtypes: Mapping[str, np.dtype],
    rows: Sequence[Rows] | None = None,
    packed: bool = False,
    nudged: int | None = None,
    beside: Beside = NOTHING,
) -> ir.Model:
    """Return the graph from weights to masks; see `MaskSession` and `ExposeMasks` for the parameters."""
    model = program.parse_model()
    SplitWithoutSequences()(model)
    besides = None
    if beside != NOTHING and rows is not None:
        besides = partial(expose, gates=gates, rows=rows, beside=beside, probe_inputs=program.probe_inputs)
    ExposeMasks(gates, rows, packed=packed, besides=besides)(model)
    if nudged is not None:
        NudgeWeights(program.weight_inputs, nudged)(model)
    CastWeights({name: ir.DataType.from_numpy(dtype) for name, dtype in dtypes.items()})(model)
    return model


class MaskSession:
    """The forward pass from weights to masks.

    Parameters
    ----------
    program : Program
    gates : sequence of Gate
    probe : mapping of str to array
        One array per probe input.
    device : Device
    dtypes : mapping of str to dtype
        The types stored in the states, by tensor; the graph widens them.
    rows : sequence of Rows, optional
        How to turn each gate into rows of units; None keeps masks in the shapes of their gates.
    nudged : int, optional
        Random seed; if given, every weight is moved by one unit in the last place.
    running : Running

    Attributes
    ----------
    on_host : mapping of str to list of str
        Nodes without a GPU kernel, which the CPU computes, by operator.
    """

    def __init__(
        self,
        program: Program,
        gates: Sequence[Gate],
        probe: Mapping[str, Array],
        device: Device,
        *,
        dtypes: Mapping[str, np.dtype],
        rows: Sequence[Rows] | None = None,
        nudged: int | None = None,
        running: Running = STEADILY,
    ) -> None:
        self.gates = tuple(gates)
        self.device = device
        self.beside = beside = running.beside
        self._samples = None if rows is None else rows[0].samples
        packs = rows is not None and device.resident
        model = mask_graph(program, gates, dtypes=dtypes, rows=rows, packed=packs, nudged=nudged, beside=beside)
        self._session = device.session(model, threads=running.threads, brief=running.brief)
        self.on_host = _computing(model, self._session.on_host)
        self.probe_inputs = program.probe_inputs
        self._probe = {name: device.place(probe[name]) for name in program.probe_inputs if name in self._session.inputs}
        numbers = [(index, plane) for index, gate in enumerate(gates) for plane in range(len(gate.planes))]
        self._planes = [plane_name(*number) for number in numbers]
        self._regions = [region_name(*number) for number in numbers] if beside.regions else []
        self._kept = frozenset([*self._planes, *self._regions]) if packs else frozenset()

    @property
    def weights(self) -> frozenset[str]:
        """The tensors that the graph uses: those that some gate depends on."""
        return self._session.inputs - set(self._probe)

    def run(self, weights: Mapping[str, Placed], probe: Mapping[str, Array] | None = None) -> Masks:
        """Return the masks of one parameter state.

        Parameters
        ----------
        weights : mapping of str to placed array
            Under the program's names; may hold more than `weights`.
        probe : mapping of str to array, optional
            Replaces the session's own probe.
        """
        inputs = self._probe if probe is None else {name: self.device.place(probe[name]) for name in self._probe}
        outputs = self._session.run({**weights, **inputs}, keep=self._kept)
        return Masks(
            planes=tuple(outputs[name] for name in self._planes),
            packed=outputs[PACKED].numpy() if PACKED in outputs else None,
            finite=bool(np.isfinite(outputs[TOTAL].numpy())),
            seen=NOTHING_SEEN if self.beside == NOTHING else self._seen(outputs),
        )

    def _seen(self, outputs: Mapping[str, Placed]) -> Seen:
        beside = self.beside

        def by_gate(name: Callable[[int], str]) -> Array:
            return np.array([outputs[name(index)].numpy() for index in range(len(self.gates))], np.float64)

        return Seen(
            tuple(outputs[name] for name in self._regions),
            by_sample(beside.outputs, outputs, self._samples) if beside.outputs else None,
            by_gate(margin_name) if beside.preactivations else None,
            by_gate(square_name) if beside.preactivations else None,
            outputs[FINGERPRINT].numpy() if beside.fingerprint else None,
        )


def by_sample(outputs: Sequence[Output], found: Mapping[str, Placed], samples: int | None) -> Array:
    """Return some outputs of a graph, concatenated, (sample, output) float."""
    assert samples is not None  # noqa: S101
    rows = [sample_first(found[output.name].numpy(), output.axis, samples) for output in outputs]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


def _computing(model: ir.Model, nodes: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names of the nodes that compute with activations, by operator; the others compute shapes."""
    known = {node.name: node for node in model.graph}
    found: dict[str, list[str]] = {}
    for operator, name in nodes:
        node = known.get(name)
        values = () if node is None else (*node.inputs, *node.outputs)
        # Nodes that ONNX Runtime created by fusion, or from a function, have new names.
        if node is None or any(value is not None and value.dtype in FLOATS for value in values):
            found.setdefault(operator, []).append(name)
    return found


class Placer:
    """Puts the tensors of states on a device, all in the types of the first state.

    Parameters
    ----------
    device : Device
    first : mapping of str to array
        The first state, under the program's names.
    """

    def __init__(self, device: Device, first: Mapping[str, Array]) -> None:
        self.device = device
        wide = np.dtype(np.float32)
        self.dtypes = {name: array.dtype if device.takes(array.dtype) else wide for name, array in first.items()}

    def place(self, weights: Mapping[str, Array], where: str) -> dict[str, Placed]:
        """Place every tensor.

        Raises
        ------
        RegimeError
            A tensor has a type that does not fit that of the first checkpoint.
        """
        return {name: self.device.place(self._typed(name, array, where)) for name, array in weights.items()}

    def _typed(self, name: str, array: Array, where: str) -> Array:
        # A tensor missing in the first state belongs to a checkpoint with its own graph.
        dtype = self.dtypes.get(name, array.dtype)
        if array.dtype == dtype:
            return array
        if not np.can_cast(array.dtype, dtype, "safe"):
            raise RegimeError(
                f"{where}: {name} is {array.dtype}, but {dtype} in the first checkpoint; analyze "
                "only checkpoints of one precision together: choose their steps with --steps"
            )
        return array.astype(dtype)
