"""Counts the parts of an ONNX model before they are created: two bytes can become a node of thousands of bytes.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterator

from regime_proto.checkpoints.limits import DESCRIPTION_VALUES, NODES

# Fields of each message that hold messages with further parts.
_MODEL = {7: "graph", 25: "function"}
_NODE = {5: "attribute"}
_MESSAGES: dict[str, dict[int, str]] = {
    "model": _MODEL,
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
    "function": {7: "node"},
    "node": _NODE,
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "value": {},
    "tensor": {},
}
_GRAPH_PARTS = ("node", "tensor", "value")
_FIXED = {1: 8, 5: 4}
_BYTES = 2


def hold_parts(content: bytes, where: object) -> None:
    """Raise an error if a model exceeds the allowed number of nodes, tensors or other parts.

    A damaged model is left to the library that reads it.

    Raises
    ------
    TooLarge
        The model has more parts.
    """
    fields = parts = 0
    most_fields, most_parts = DESCRIPTION_VALUES.value, NODES.value
    pending = [("model", 0, len(content))]
    while pending:
        kind, start, end = pending.pop()
        below = _MESSAGES[kind]
        for number, first, past in _fields(content, start, end):
            fields += 1
            if fields > most_fields:
                DESCRIPTION_VALUES.hold(where, fields, "fields or more")
            inner = below.get(number)
            if inner is None:
                continue
            parts += inner in _GRAPH_PARTS
            if parts > most_parts:
                NODES.hold(where, parts, "nodes, tensors and values or more")
            pending.append((inner, first, past))


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and byte after the last of the fields of a message, up to any damage."""
    while at < end:
        tag, at = _varint(content, at, end)
        wire = tag & 7
        length = _FIXED.get(wire, 0)
        if wire == _BYTES:
            length, at = _varint(content, at, end)
        elif wire == 0:
            _, at = _varint(content, at, end)
        elif not length:
            return
        if at + length > end:
            return
        yield tag >> 3, at, at + length
        at += length


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    return value, end
