"""Passes that turn an exported graph into a program: weights as inputs, unique names, nothing else kept."""

from collections.abc import Mapping

from regime_proto.runtime.ir import InPlacePass, PassResult, ir

PATH_KEY = "regime_path"


class LiftWeights(InPlacePass):
    """Turn the initializers in `names` into graph inputs with the given names.

    Parameters
    ----------
    names : mapping of str to str
        Initializer name to input name.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def call(self, model: ir.Model) -> PassResult:
        """Turn them into inputs; the other initializers stay constants."""
        lifted = [name for name in model.graph.initializers if name in self.names]
        for name in lifted:
            value = model.graph.initializers.pop(name)
            value.const_value = None
            value.name = self.names[name]
            model.graph.inputs.append(value)
        return PassResult(model, modified=bool(lifted))


class StripMetadata(InPlacePass):
    """Remove the exporter's metadata (such as source paths), and keep each node's module path.

    Parameters
    ----------
    paths : mapping of str to str
        Node name to module path.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = paths

    def call(self, model: ir.Model) -> PassResult:
        """Strip model, graphs, nodes and values."""
        modified = False
        model.doc_string = None
        for graph in model.graphs():
            graph.doc_string = None
            graph.metadata_props.clear()
            for value in (*graph.inputs, *graph.initializers.values()):
                value.doc_string = None
                value.metadata_props.clear()
            for node in graph:
                path = self.paths.get(str(node.name))
                kept = {PATH_KEY: path} if path else {}
                modified |= dict(node.metadata_props) != kept
                node.metadata_props.clear()
                node.metadata_props.update(kept)
                node.doc_string = None
                for value in node.outputs:
                    value.doc_string = None
                    value.metadata_props.clear()
        return PassResult(model, modified=modified)


class NameNodes(InPlacePass):
    """Give every node a unique name: the name is the key of a layer."""

    def call(self, model: ir.Model) -> PassResult:
        """Keep names that are already unique."""
        taken: set[str] = set()
        modified = False
        for node in model.graph.all_nodes():
            name = node.name or f"node_{node.op_type}"
            unique, number = name, 1
            while unique in taken:
                unique, number = f"{name}_{number}", number + 1
            taken.add(unique)
            if unique != node.name:
                node.name = unique
                modified = True
        return PassResult(model, modified=modified)
