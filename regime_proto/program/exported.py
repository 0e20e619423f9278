"""Creates programs from graphs exported by other tools, whose weights are inputs by now."""

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
    """The origin of a graph.

    Parameters
    ----------
    where : str
        Named in errors.
    framework : mapping of str to str
        Names and versions of the libraries that exported it.
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
    """Return a self-contained program, with every shape fixed for the probe and no trace of its origin.

    Parameters
    ----------
    model : ir.Model
        Changed in place.
    tensors : sequence of Tensor
        All tensors of a checkpoint.
    weights, probe : mapping of str to array
        Together one array for every graph input; the graph is run on them once.
    origin : Origin
    fixed : mapping of str to number, optional
        The inputs that are constants of this program; see `FixInputValues`.
    beside : mapping of str to tuple of int, optional
        Shapes of constants that a checkpoint may also hold; those that the graph does not use are listed as tensors.

    Raises
    ------
    ProgramError
        The probe does not fit the graph, or the graph fails on it.
    """
    where = origin.where
    # Constants must be stored in the program itself, since it is distributed alone.
    ir.external_data.load_to_model(model)
    for rewrite in (
        FixInputShapes(probe, where),
        FixInputValues({name: probe[name] for name in fixed or ()}),
        PoolFewerAxes(),
        InlineConstantBranches(weights=()),
        RunOnce(probe, weights, where),
        # Shapes that only a run could reveal may determine more conditions.
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
    """Run a program on the CPU, to compare it with the model it was exported from.

    Parameters
    ----------
    program : Program
    arrays : mapping of str to array
        Weights and probe, by name; those that the graph does not use are ignored.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(program.content, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    found: list[Array] = session.run(None, {name: array for name, array in arrays.items() if name in names})
    return found


def forget_origin(model: ir.Model) -> None:
    """Remove the exporter's details from the model, so that equal graphs yield equal programs."""
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = None
    model.graph.name = "main_graph"


def paths_by_weights(model: ir.Model, modules: Mapping[str, str]) -> dict[str, str]:
    """Return, for every node that depends on the probe, the module whose weights its input passed through last.

    For exporters that record no module paths.

    Parameters
    ----------
    model : ir.Model
        All its nodes have names.
    modules : mapping of str to str
        Module by graph input, for all weights; the other inputs are the probe's.
    """
    modules_of: dict[ir.Value, str] = {value: modules.get(str(value.name), "") for value in model.graph.inputs}
    # The position of the node where the last weights came in; weights themselves have no position.
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
