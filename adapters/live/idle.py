"""The engine of processes that have nothing to contribute."""

from collections.abc import Mapping

from regime_proto.recording.live import Measurement, Pending


class Idle:
    """The engine of a process whose weights are the same as another's, which records them."""

    name = device = ""
    asynchronous = collective = False

    def measure(self, model: object) -> Pending:
        """Do nothing."""
        return _nothing

    def noise(self, model: object) -> Mapping[str, float]:
        """Do nothing."""
        return {}


def _nothing() -> Measurement:
    raise AssertionError("only the process that records waits for a measurement")
