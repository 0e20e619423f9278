"""Makes programs of graphs that other tools exported, once their weights are inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnxruntime

from regime_proto.program.control_flow import InlineConstantBranches
from regime_proto.program.pooling import PoolFewerAxes
from regime_proto.program.program import Program, Tensor
from regime_proto.program.rewrite import NameNodes, StripMetadata
from regime_proto.program.shapes import FixInputShapes, FixInputValues, RunOnce
from regime_proto.runtime.ir import ir
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Origin:
    """Where a graph comes from.

    Parameters
    ----------
    where : str
        Named in errors.
    framework : mapping of str to str
        Names and versions of what it was exported with.
    paths : mapping of str to str
        Module path by node name, as far as known.
    """

    where: str
    framework: Mapping[str, str]
    paths: Mapping[str, str] = field(default_factory=dict)


def exported_program(
    model: ir.Model,
    *,
    tensors: Sequence[Tensor],
    weights: Mapping[str, Array],
    probe: Mapping[str, Array],
    origin: Origin,
    fixed: Mapping[str, float] | None = None,
    beside: Mapping[str, tuple[int, ...]] | None = None,
) -> Program:
    """Return a program that stands alone: every shape fixed for the probe, nothing of its origin left in it.

    Parameters
    ----------
    model : ir.Model
        Changed in place.
    tensors : sequence of Tensor
        Every tensor a checkpoint holds.
    weights, probe : mapping of str to array
        Between them one array for every graph input; the graph is run on them once.
    origin : Origin
    fixed : mapping of str to number, optional
        The inputs that are constants of this program; see `FixInputValues`.
    beside : mapping of str to tuple of int, optional
        Shapes of constants that a checkpoint may hold too; those that the graph has no use for are listed as tensors.

    Raises
    ------
    ProgramError
        The probe does not fit, or the graph does not run on it.
    """
    where = origin.where
    # The constants have to stand in the program itself: it is shipped alone.
    ir.external_data.load_to_model(model)
    for rewrite in (
        FixInputShapes(probe, where),
        FixInputValues({name: probe[name] for name in fixed or ()}),
        PoolFewerAxes(),
        InlineConstantBranches(weights=()),
        RunOnce(probe, weights, where),
        # Shapes that only a run could tell may decide more of them.
        InlineConstantBranches(weights=()),
        RunOnce(probe, weights, where, trial=False),
        NameNodes(),
        StripMetadata(origin.paths),
    ):
        rewrite(model)
    forget_origin(model)
    held = {*model.graph.initializers, *(tensor.name for tensor in tensors)}
    unused = [Tensor(name, shape, trainable=False) for name, shape in (beside or {}).items() if name not in held]
    return Program.from_model(
        model, tensors=[*tensors, *unused], probe_inputs=list(probe), framework=origin.framework, fixed=fixed
    )


def outputs_of(program: Program, arrays: Mapping[str, Array]) -> list[Array]:
    """Run a program on the CPU, to compare it with what it was exported from.

    Parameters
    ----------
    program : Program
    arrays : mapping of str to array
        Weights and probe, by name; those that the graph has no use for are passed over.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(program.content, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    found: list[Array] = session.run(None, {name: array for name, array in arrays.items() if name in names})
    return found


def forget_origin(model: ir.Model) -> None:
    """Remove what says who exported the model, so that equal graphs give equal programs."""
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = None
    model.graph.name = "main_graph"


def paths_by_weights(model: ir.Model, modules: Mapping[str, str]) -> dict[str, str]:
    """Return, for every node that the probe reaches, the module whose weights its input went through last.

    For exporters that leave no module paths behind.

    Parameters
    ----------
    model : ir.Model
        Whose nodes have names.
    modules : mapping of str to str
        Module by graph input, for all weights; the other inputs are the probe's.
    """
    modules_of: dict[ir.Value, str] = {value: modules.get(str(value.name), "") for value in model.graph.inputs}
    # How late the last weights came in; weights themselves have no place in that order.
    since = {value: 0 for value in model.graph.inputs if str(value.name) not in modules}
    paths: dict[str, str] = {}
    for place, node in enumerate(model.graph, start=1):
        inputs = [value for value in node.inputs if value is not None]
        data = [value for value in inputs if value in since]
        own = [module for value in inputs if value not in since and (module := modules_of.get(value))]
        if not data:
            modules_of |= dict.fromkeys(node.outputs, next(iter(own), ""))
            continue
        if own:
            found, came = own[-1], place
        else:
            latest = max(data, key=since.__getitem__)
            found, came = modules_of[latest], since[latest]
        modules_of |= dict.fromkeys(node.outputs, found)
        since |= dict.fromkeys(node.outputs, came)
        if found:
            paths[str(node.name)] = found
    return paths
