"""Which nodes of a graph ONNX Runtime runs on a card, from the kernels of its CUDA provider; no card is needed.

``python tests/support/cuda_kernels.py`` writes the kernels of the installed onnxruntime-gpu to ``tests/data/``. It asks
every provider of that build for its kernels, so the libraries of CUDA and of TensorRT have to be found.
"""

import json
from collections import defaultdict
from functools import cache

import onnx
import onnx_ir as ir
import onnxruntime
from folders import ROOT
from onnx import defs
from onnx.inliner import inline_selected_functions
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from regime_proto.program.values import SHAPE_OPS, bodies

PATH = ROOT / "tests/data/cuda_kernels.json"
# ONNX Runtime's own operators that spell gates.
OWN = tuple(("com.microsoft", op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu"))
_NO_END = 2**31 - 1


def fallen_back(model):
    """Return the nodes of an onnx_ir.Model that no kernel for a card takes, each with ``operator(version) types``.

    What follows from shapes and constants alone is left out: ONNX Runtime places it on the CPU on purpose, or computes
    it once. An operator that is a function of others is resolved as ONNX Runtime does it: where no provider has a
    kernel for it.
    """
    graph = _Graph(ir.to_proto(model))
    functions = {("", node.op_type) for node in graph.nodes if graph.is_inlined(node)}
    if functions:
        graph = _Graph(inline_selected_functions(graph.proto, sorted(functions), inline_schema_functions=True))
    on_host, fallen = set(graph.constants), {}
    for node in graph.nodes:
        if node.op_type in SHAPE_OPS or all(value in on_host for value in node.inputs if value is not None):
            on_host.update(node.outputs)
        elif not graph.has_kernel(node, "cuda"):
            types = ", ".join(_type(value) for value in node.inputs if value is not None)
            fallen[node.name] = f"{_key(node.domain, node.op_type)}({graph.schema(node).since_version}) {types}"
    return fallen


class _Graph:
    """A graph with the types of its values, and its nodes, those inside of control flow too."""

    def __init__(self, proto):
        self.proto = onnx.shape_inference.infer_shapes(proto)
        graph = ir.from_proto(self.proto).graph
        self.nodes = list(_nodes(graph))
        self.constants = graph.initializers.values()
        self._opsets = graph.opset_imports

    def schema(self, node):
        """Return the schema of a node's operator in ONNX Runtime, in the version that the graph imports."""
        found = _schemas()[_key(node.domain, node.op_type)]
        return max(
            (schema for schema in found if schema.since_version <= self._opsets[node.domain]),
            key=lambda schema: schema.since_version,
        )

    def has_kernel(self, node, where):
        schema = self.schema(node)
        return any(
            _covers(begin, end, schema.since_version)
            and all(_types(schema, node, name) <= set(types) for name, types in rule.items())
            for begin, end, rule in kernels()[where].get(_key(node.domain, node.op_type), ())
        )

    def is_inlined(self, node):
        return (
            _is_function(node.domain, node.op_type, self.schema(node).since_version)
            and not self.has_kernel(node, "cuda")
            and not self.has_kernel(node, "functions_on_cpu")
        )


def _nodes(graph):
    for node in graph:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _covers(begin, end, version):
    """Whether a kernel is for a version of an operator; one that has no end is for the version it begins with."""
    return begin == version or (end is not None and begin < version <= end)


def _types(schema, node, name):
    """Return the types in a node of what its schema calls `name`: a type, or one argument."""
    found = set()
    for formals, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        for position, value in enumerate(values):
            # The last argument may stand for any number of them.
            formal = formals[min(position, len(formals) - 1)]
            if value is not None and name in (formal.typeStr, formal.name):
                found.add(_type(value))
    return found


def _type(value):
    return "unknown" if value.dtype is None else value.dtype.name.lower()


def _key(domain, op):
    return f"{domain}:{op}" if domain else op


@cache
def kernels():
    """Return the table of kernels."""
    return json.loads(PATH.read_text())


@cache
def _schemas():
    found = defaultdict(list)
    for schema in runtime.get_all_operator_schema():
        found[_key(schema.domain, schema.name)].append(schema)
    return found


@cache
def _is_function(domain, op, version):
    if domain or not defs.has(op, version, domain):
        return False
    schema = defs.get_schema(op, version, domain)
    return schema.has_function or schema.has_context_dependent_function


def _written():
    """Return the kernels of the installed onnxruntime-gpu, and of its CPU provider those of functions."""
    held = {"cuda": defaultdict(list), "functions_on_cpu": defaultdict(list)}
    for kernel in runtime.get_all_opkernel_def():
        begin, end = kernel.version_range
        domain, op = kernel.domain, kernel.op_name
        where = {"CUDAExecutionProvider": "cuda", "CPUExecutionProvider": "functions_on_cpu"}.get(kernel.provider)
        wanted = domain == "" or (domain, op) in OWN
        if where == "functions_on_cpu":
            wanted = domain == "" and _is_function(domain, op, min(end, defs.onnx_opset_version()))
        if where is not None and wanted:
            rule = {name: _tensors(types) for name, types in kernel.type_constraints.items()}
            held[where][_key(domain, op)].append([begin, None if end == _NO_END else end, rule])
    return held


def _tensors(types):
    return {name[len("tensor(") : -1] for name in types if name.startswith("tensor(")}


def _joined(rules):
    """Join kernels that differ in the types of one argument."""
    joined = []
    for begin, end, rule in sorted(rules, key=str):
        for other in joined:
            differing = [name for name in rule if rule[name] != other[2].get(name)]
            if other[:2] == [begin, end] and rule.keys() == other[2].keys() and len(differing) < 2:
                other[2].update({name: other[2][name] | rule[name] for name in differing})
                break
        else:
            joined.append([begin, end, dict(rule)])
    return joined


def main():
    """Write the table, an operator to a line."""
    parts = [
        f'"onnxruntime": "{onnxruntime.__version__}"',
        '"source": "onnxruntime.capi.onnxruntime_pybind11_state.get_all_opkernel_def() of onnxruntime-gpu"',
        '"meaning": "by operator: first and last version, types by the name of type or argument; null is no end"',
    ]
    for where, operators in _written().items():
        lines = [f'"{op}": {json.dumps(_joined(rules), default=sorted)}' for op, rules in sorted(operators.items())]
        parts.append("\n".join([f'"{where}": {{', ",\n".join(lines), "}"]))
    PATH.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
