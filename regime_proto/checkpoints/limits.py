"""How much a file of unknown origin may ask for.

A file is measured against these before it is read. Each can be raised by an environment variable.
"""

from regime_proto.schema.limits import INFLATION, Limit, TooLarge

ALWAYS_ALLOWED_BYTES = 2**26
"""What any file may expand to, however small it is."""

DESCRIPTION_BYTES = Limit("DESCRIPTION_BYTES", 2**26, "bytes of JSON or of a pickle")
"""Bytes of a JSON text, and of a pickle without its tensors."""

DESCRIPTION_VALUES = Limit("DESCRIPTION_VALUES", 1_000_000, "values in JSON, msgpack or ONNX")
"""Values in a JSON text, a msgpack or an ONNX file. The index of a model of 1,000 shards has some 100,000."""

OPCODES = Limit("OPCODES", 1_000_000, "opcodes of a pickle")
"""Opcodes of a pickle without its tensors. torch writes some 45 a tensor."""

ENTRIES = Limit("ENTRIES", 200_000, "entries of an archive")
"""Entries of a zip archive. torch writes one a tensor."""

LAYERS = Limit("LAYERS", 10_000, "layers in a config")
"""A config's numbers of layers, blocks, stages and experts."""

LABELS = Limit("LABELS", 1_000_000, "classes in a config")
"""A config's number of classes."""

NODES = Limit("NODES", 100_000, "nodes of an ONNX graph")
"""Nodes, initializers and other parts of an ONNX graph, its subgraphs included."""


def hold_inflation(where: object, unpacked: int, stored: int) -> None:
    """Raise an error if a file of `stored` bytes would take `unpacked` bytes of memory, and that is not credible.

    Raises
    ------
    TooLarge
        It is not.
    """
    if unpacked > max(ALWAYS_ALLOWED_BYTES, INFLATION.value * stored):
        times = -(-unpacked // max(stored, 1))
        raise TooLarge(
            f"{where}: refused: {stored:,} that unpack to {unpacked:,} bytes; expected {INFLATION.value} times as many "
            f"at most; if you trust this file, set {INFLATION.variable}={times}"
        )
