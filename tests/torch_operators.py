"""Exports of torch that read its table of ONNX operators once a process, and not once an export.

The exporter parses the source of 500 functions for it, the same every time: 0.8 of the 1.3 seconds that a small net takes.
"""

import functools

import pytest


@pytest.fixture(autouse=True, scope="session")
def operators_are_read_once():
    """Give every export a table of its own, copied from one that torch has made."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(_, *arguments, **options):
        table = made(*arguments, **options)
        copied = ONNXRegistry()
        vars(copied).update(vars(table), functions={name: [*found] for name, found in table.functions.items()})
        return copied

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ONNXRegistry, "from_torchlib", classmethod(from_torchlib))
        yield
