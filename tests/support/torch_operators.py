"""Reads torch's lists of operators once, where every export reads them anew: three quarters of the time of a small one.

They are the same each time, and an export does not change them.
"""

from functools import cache

import torch
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry

_read = cache(ONNXRegistry.from_torchlib)
_look_up_all = cache(lambda number, look_up=utils._materialize_cpp_cia_ops: look_up())


def _from_torchlib(cls, **options):
    """Return a registry of its own, which may be added to."""
    found, made = _read(**options), cls()
    made.functions = {target: list(known) for target, known in found.functions.items()}
    made._opset_version = found.opset_version
    return made


def _look_up_operators():
    """Look up all operators of C++ where there are others than the last time."""
    _look_up_all(len(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")))


ONNXRegistry.from_torchlib = classmethod(_from_torchlib)
utils._materialize_cpp_cia_ops = _look_up_operators
