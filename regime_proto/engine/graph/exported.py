"""Makes programs of graphs that other tools exported, once their weights are inputs."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from regime_proto.engine.graph.control_flow import InlineConstantBranches
from regime_proto.engine.graph.program import Program, Tensor
from regime_proto.engine.graph.rewrite import NameNodes, StripMetadata
from regime_proto.engine.graph.shapes import FixInputShapes, RunOnce
from regime_proto.source import Array


def exported_program(
    model: ir.Model,
    *,
    tensors: Sequence[Tensor],
    weights: Mapping[str, Array],
    probe: Mapping[str, Array],
    framework: Mapping[str, str],
    where: str,
    paths: Mapping[str, str] | None = None,
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
    framework : mapping of str to str
        Names and versions of what the graph was exported with.
    where : str
        Named in errors.
    paths : mapping of str to str, optional
        Module path by node name.

    Raises
    ------
    ProgramError
        The probe does not fit, or the graph does not run on it.
    """
    # The constants have to stand in the program itself: it is shipped alone.
    ir.external_data.load_to_model(model)
    for rewrite in (
        FixInputShapes(probe, where),
        InlineConstantBranches(weights=()),
        RunOnce(probe, weights, where),
        NameNodes(),
        StripMetadata(paths or {}),
    ):
        rewrite(model)
    forget_origin(model)
    return Program.from_model(model, tensors=tensors, probe_inputs=list(probe), framework=framework)


def forget_origin(model: ir.Model) -> None:
    """Remove what says who exported the model, so that equal graphs give equal programs."""
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = None
    model.graph.name = "main_graph"
