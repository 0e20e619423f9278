"""Runs of checkpoints that hold graphs of their own: one session for every structure, gates aligned."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from regime_proto.checkpoints.source import Checkpoint
from regime_proto.engine.session import MaskSession
from regime_proto.program.gates import Gate, find_gates
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

# A session holds no weights, but a graph and what the runtime made of it.
_KEPT = 4


@dataclass(frozen=True)
class Outline:
    """What a checkpoint with a graph of its own holds, without the numbers.

    Parameters
    ----------
    structure : str
        The same for graphs that differ in weights only.
    tensors : mapping of str to tuple of int
        Shapes of the weights.
    """

    structure: str
    tensors: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Variants:
    """The structures of a run whose graphs differ.

    Parameters
    ----------
    outlines : mapping of Checkpoint to Outline
    program_of : callable
        Makes the program of a checkpoint.
    """

    outlines: Mapping[Checkpoint, Outline]
    program_of: Callable[[Checkpoint], Program]

    def common(self, program: Program) -> Program:
        """Return `program` with those tensors trainable only that every checkpoint holds in one shape."""

        def everywhere(name: str) -> bool:
            return len({outline.tensors.get(name) for outline in self.outlines.values()}) == 1

        tensors = (
            replace(tensor, trainable=tensor.trainable and everywhere(tensor.name)) for tensor in program.tensors
        )
        restricted = replace(program, tensors=tuple(tensors))
        if not restricted.trainable:
            raise RegimeError(
                "the graphs of the checkpoints differ, and no weight has one name and shape in all of them: export "
                "every checkpoint in the same way, without folding constants"
            )
        return restricted


class VariantSessions:
    """Makes a session for each structure when it is met, and keeps the last few.

    Parameters
    ----------
    variants : Variants
    gates : sequence of Gate
        Those of the first checkpoint that are tracked.
    make : callable
        Makes the session of a program and its gates.
    """

    def __init__(
        self,
        variants: Variants,
        gates: Sequence[Gate],
        make: Callable[[Program, Sequence[Gate]], MaskSession],
    ) -> None:
        self._variants = variants
        self._gates = gates
        self._make = make
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[Program, MaskSession]] = OrderedDict()

    def of(self, checkpoint: Checkpoint) -> tuple[Program, MaskSession]:
        """Return the program of a checkpoint, and its session."""
        structure = self._variants.outlines[checkpoint].structure
        with self._lock:
            if structure not in self._known:
                program = self._variants.program_of(checkpoint)
                gates = aligned(self._gates, find_gates(program), str(checkpoint.path))
                self._known[structure] = program, self._make(program, gates)
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(structure)
            return self._known[structure]


def aligned(gates: Sequence[Gate], found: Sequence[Gate], where: str) -> tuple[Gate, ...]:
    """Return those of `found` that are `gates`: the same node name, operator and shape.

    Raises
    ------
    RegimeError
        Names a gate that is missing.
    """
    by_key = {(gate.node, gate.op, gate.shape): gate for gate in found if gate.trackable}
    for gate in gates:
        if (gate.node, gate.op, gate.shape) not in by_key:
            raise RegimeError(
                f"{where}: has no gate {gate.node} ({gate.op}, shape {list(gate.shape)}), as the first checkpoint has; "
                "its graph is another: export every checkpoint in the same way, or leave the gate out with "
                f"--gates '!{gate.node}'"
            )
    return tuple(by_key[gate.node, gate.op, gate.shape] for gate in gates)
