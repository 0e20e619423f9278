"""The engine of processes that have nothing to contribute."""

from collections.abc import Mapping
from types import MappingProxyType

from regime_proto.engine.live_model import Measurement, Pending
from regime_proto.schema.types import Array


class Idle:
    """The engine of a process whose weights are the same as another's, which records them."""

    name = device = ""
    asynchronous = collective = False

    start: Mapping[str, Array] = MappingProxyType({})

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """Do nothing."""
        return _nothing

    def noise(self, model: object) -> Mapping[str, float]:
        """Do nothing."""
        return {}

    def wait(self, model: object) -> None:
        """Do nothing."""

    def agreed(self, stride: int | None) -> int | None:
        """Return the stride of this process: no other needs it."""
        return stride


def _nothing() -> Measurement:
    raise AssertionError("only the process that records waits for a measurement")
