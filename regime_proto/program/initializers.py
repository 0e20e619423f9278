"""Moves the constant tensors of a plain ONNX model into the initializers of its main graph."""

from regime_proto.runtime.ir import (
    InlinePass,
    InPlacePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    PassResult,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
    ir,
)


class GatherInitializers(InPlacePass):
    """Move every constant tensor into the main graph's initializers, and remove initializers from its inputs.

    Local functions are inlined. `Constant` nodes and initializers of subgraphs become initializers
    of the main graph. Unused parts are removed.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the onnx_ir passes one after another."""
        rewrites = [
            *([InlinePass()] if model.functions else []),
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1),
            LiftSubgraphInitializersToMainGraphPass(),
            RemoveInitializersFromInputsPass(),
            RemoveUnusedNodesPass(),
        ]
        modified = False
        for rewrite in rewrites:
            modified |= rewrite(model).modified
        for value in model.graph.initializers.values():
            # Declared shapes may have symbolic lengths.
            tensor = value.const_value
            if tensor is not None and (value.shape != tensor.shape or value.dtype != tensor.dtype):
                value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
                modified = True
        # Up to format version 3, every initializer also had to be an input.
        modified |= model.ir_version < 4
        model.ir_version = max(model.ir_version, 4)
        return PassResult(model, modified=modified)
