"""Engine of processes that contribute nothing to a recording."""

from collections.abc import Mapping
from types import MappingProxyType

from regime_proto.engine.live_model import Measurement, Pending
from regime_proto.schema.types import Array


class Idle:
    """Engine of a process with the same weights as the recording process."""

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
        """Return the stride of this process; no agreement is needed."""
        return stride


def _nothing() -> Measurement:
    raise AssertionError("only the recording process waits for a measurement")
