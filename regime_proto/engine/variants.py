"""Runs whose checkpoints hold their own graphs: one session per structure, with aligned gates."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from regime_proto.checkpoints.source import Checkpoint
from regime_proto.engine.session import MaskSession
from regime_proto.program.gates import Gate, find_gates
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

# A session holds no weights, only a graph and the runtime's compiled form of it.
_KEPT = 4


@dataclass(frozen=True)
class Outline:
    """The contents of a checkpoint with its own graph, without the values.

    Parameters
    ----------
    structure : str
        Equal for graphs that differ only in weights.
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
        Creates the program of a checkpoint.
    """

    outlines: Mapping[Checkpoint, Outline]
    program_of: Callable[[Checkpoint], Program]

    def common(self, program: Program) -> Program:
        """Return `program` with only those tensors trainable that have the same shape in every checkpoint."""

        def everywhere(name: str) -> bool:
            return len({outline.tensors.get(name) for outline in self.outlines.values()}) == 1

        tensors = (
            replace(tensor, trainable=tensor.trainable and everywhere(tensor.name)) for tensor in program.tensors
        )
        restricted = replace(program, tensors=tuple(tensors))
        if not restricted.trainable:
            raise RegimeError(
                "the graphs of the checkpoints differ, and no weight has the same name and shape "
                "in all of them; export every checkpoint in the same way, without constant "
                "folding"
            )
        return restricted


class VariantSessions:
    """Creates a session for each new structure, and keeps the last few.

    Parameters
    ----------
    variants : Variants
    gates : sequence of Gate
        The tracked gates of the first checkpoint.
    make : callable
        Creates the session for a program and its gates.
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
    """Return the gates in `found` that match `gates` by node name, operator and shape.

    Raises
    ------
    RegimeError
        A gate is missing; the message names it.
    """
    by_key = {(gate.node, gate.op, gate.shape): gate for gate in found if gate.trackable}
    for gate in gates:
        if (gate.node, gate.op, gate.shape) not in by_key:
            raise RegimeError(
                f"{where}: the graph has no gate {gate.node} ({gate.op}, shape "
                f"{list(gate.shape)}), unlike that of the first checkpoint; export every "
                f"checkpoint in the same way, or leave the gate out with --gates '!{gate.node}'"
            )
    return tuple(by_key[gate.node, gate.op, gate.shape] for gate in gates)
