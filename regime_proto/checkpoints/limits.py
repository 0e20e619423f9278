"""Limits on the memory and work that a file of unknown origin may cause.

A file is checked against these before it is read. An environment variable can raise each.
"""

from regime_proto.schema.limits import INFLATION, Limit, TooLarge

ALWAYS_ALLOWED_BYTES = 2**26
"""Any file may expand to this many bytes, however small it is."""

DESCRIPTION_BYTES = Limit("DESCRIPTION_BYTES", 2**26, "bytes of JSON or of a pickle")
"""Bytes of a JSON text, or of a pickle without its tensors."""

DESCRIPTION_VALUES = Limit("DESCRIPTION_VALUES", 1_000_000, "values in JSON, msgpack or ONNX")
"""Values in a JSON text, a msgpack file or an ONNX file. The index of a model with 1,000 shards has some 100,000."""

OPCODES = Limit("OPCODES", 1_000_000, "opcodes of a pickle")
"""Opcodes of a pickle without its tensors. torch writes some 45 per tensor."""

ENTRIES = Limit("ENTRIES", 200_000, "entries of an archive")
"""Entries of a zip archive. torch writes one per tensor."""

LAYERS = Limit("LAYERS", 10_000, "layers in a config")
"""A config's numbers of layers, blocks, stages and experts."""

LABELS = Limit("LABELS", 1_000_000, "classes in a config")
"""A config's number of classes."""

NODES = Limit("NODES", 100_000, "nodes of an ONNX graph")
"""Nodes, initializers and other parts of an ONNX graph, its subgraphs included."""


def hold_inflation(where: object, unpacked: int, stored: int) -> None:
    """Raise an error if it is not credible that a file of `stored` bytes unpacks to `unpacked` bytes.

    Raises
    ------
    TooLarge
        It is not credible.
    """
    if unpacked > max(ALWAYS_ALLOWED_BYTES, INFLATION.value * stored):
        times = -(-unpacked // max(stored, 1))
        raise TooLarge(
            f"{where}: refused: {stored:,} bytes unpack to {unpacked:,} bytes; expected at most "
            f"{INFLATION.value} times as many; if you trust this file, set "
            f"{INFLATION.variable}={times}"
        )
