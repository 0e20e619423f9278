"""Which steps of a training are looked at."""

from collections.abc import Callable

from regime_proto.schema.errors import RegimeError

Schedule = int | Callable[[int], bool]
"""Every k-th step (those that k divides), or a function that says of a step whether it is looked at."""

Predicate = Callable[[int], bool]


def as_predicate(every: Schedule) -> Predicate:
    """Return a schedule as a function of the step.

    Raises
    ------
    RegimeError
        It is neither a function nor a whole number of 1 or more.
    """
    if callable(every):
        return every
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise RegimeError(f"every={every!r}: expected a whole number of 1 or more, or a function of the step")
    return lambda step: step % every == 0
