"""Reads torch's library of ONNX operators once, where every export reads it anew: half of the time of a small one.

The list is the same each time, and an export does not change it.
"""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

_read = cache(ONNXRegistry.from_torchlib)


def _from_torchlib(cls, **options):
    """Return a registry of its own, which may be added to."""
    found, made = _read(**options), cls()
    made.functions = {target: list(known) for target, known in found.functions.items()}
    made._opset_version = found.opset_version
    return made


ONNXRegistry.from_torchlib = classmethod(_from_torchlib)
