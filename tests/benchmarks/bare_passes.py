"""The forward pass up to the last gates, its weights in memory, no masks: as fast as ONNX Runtime gets.

A process of its own; prints, as JSON, milliseconds per pass: all cores on one pass, and one thread per core.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

from regime_proto.conversion.plan import make_plan
from regime_proto.runtime.device import cores


def last_gates(graph, names):
    """Return the gates that no other gate depends on."""
    last, needed = [], set()
    for node in reversed(graph):
        if node.name in names and node not in needed:
            last.append(node)
        if node.name in names or node in needed:
            needed.update(node.predecessors())
    return last


def pruned(plan):
    """Return the graph up to the last gates, without the inputs that this leaves unused."""
    model = plan.program.parse_model()
    ends = last_gates(model.graph, {gate.node for gate in plan.gates})
    model.graph.outputs[:] = [node.outputs[0] for node in ends]
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    return model


def session(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors only: it warns of each CastLike, a function with no kernel of its own, that it cannot fold.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def on_all_cores(model, feeds, count):
    """Return milliseconds per pass, one after the other, each on all cores."""
    wide = session(model, cores())
    wide.run(None, feeds)
    begin = time.perf_counter()
    for _ in range(count):
        wide.run(None, feeds)
    return 1e3 * (time.perf_counter() - begin) / count


def one_per_core(model, feeds, count):
    """Return milliseconds per pass, with as many passes of one thread at once as there are cores."""
    narrow, each = session(model, 1), -(-count // cores())

    def run(times):
        for _ in range(times):
            narrow.run(None, feeds)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(run, [1] * cores()))
        begin = time.perf_counter()
        list(pool.map(run, [each] * cores()))
        return 1e3 * (time.perf_counter() - begin) / (each * cores())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, help="of passes")
    options = parser.parse_args()
    plan = make_plan(options.folder)
    model, first = pruned(plan), plan.source.checkpoints[0]
    arrays = {**plan.program.bind(plan.source.read(first), str(first.path)), **plan.probe}
    feeds = {value.name: np.ascontiguousarray(arrays[value.name]) for value in model.graph.inputs}
    print(json.dumps([measure(model, feeds, options.count) for measure in (on_all_cores, one_per_core)]))


if __name__ == "__main__":
    main()
