"""Counts the values in a msgpack file before they are created: one byte can become a hundred in memory.

Follows the specification of the format, https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from regime_proto.checkpoints.limits import DESCRIPTION_VALUES

# Files below this size cannot use much memory, whatever their content.
_SMALL = 2**22
# Number of bytes after the first, for values of fixed length.
_FIXED = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3,
    0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4,
}  # fmt: skip
# Size of the length field after the first byte: of strings and bytes, and of extensions.
_COUNTED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}


def hold_values(content: bytes, where: object, arrays: tuple[int, ...]) -> None:
    """Raise an error if a file holds more values than the limit.

    Parameters
    ----------
    content : bytes
    where : object
        Name of the file in errors.
    arrays : tuple of int
        Codes of extensions whose content is msgpack.

    Raises
    ------
    TooLarge
        The file holds more values.
    """
    if len(content) <= _SMALL:
        return
    at, end, most = 0, len(content), DESCRIPTION_VALUES.value
    for _ in range(most):
        if at >= end:
            return
        at = _next(content, at, arrays)
    DESCRIPTION_VALUES.hold(where, most + 1, "values or more")


def _next(content: bytes, at: int, arrays: tuple[int, ...]) -> int:
    """Return the start of the next value; for lists, maps and arrays the first value inside."""
    code = content[at]
    if 0xA0 <= code <= 0xBF:
        return at + 1 + (code & 0x1F)
    if code in _COUNTED:
        start = at + 1 + _COUNTED[code]
        return start + int.from_bytes(content[at + 1 : start], "big")
    if code in _EXTENSIONS:
        kind = at + 1 + _EXTENSIONS[code]
        is_array = kind < len(content) and content[kind] in arrays
        return kind + 1 + (0 if is_array else int.from_bytes(content[at + 1 : kind], "big"))
    return at + 1 + _FIXED.get(code, 0)
