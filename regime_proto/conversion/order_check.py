"""Checks the order of checkpoints by their weights during a conversion; stores the result in the trajectory."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from regime_proto.checkpoints.source import Source
from regime_proto.conversion.plan import Plan
from regime_proto.integrity.order import contradiction
from regime_proto.integrity.sketch import Sketches
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.notes import ORDER_DOUBT
from regime_proto.schema.writer import TrajectoryWriter


def sketched(plan: Plan) -> tuple[Plan, Sketches]:
    """Return a plan that keeps a sketch of every state that is read, and these sketches."""
    names = {name for tensor in plan.program.trainable for name in (tensor.name, *tensor.aliases)}
    sketches = Sketches(names)
    lazily = plan.source.read_lazily
    source = replace(
        plan.source,
        read=sketches.reading(plan.source.read),
        read_lazily=None if lazily is None else sketches.reading(lazily),
    )
    # The fingerprints are known, so the files need not be examined again.
    return replace(plan, source=source, known_fingerprints=tuple(plan.fingerprints)), sketches


@contextlib.contextmanager
def judging(plan: Plan, sketches: Sketches, writer: TrajectoryWriter, rows: range | None = None) -> Iterator[None]:
    """Check the order of the checkpoints at the end of a conversion, or of its part before an error.

    After an interruption only the states that are read from then on can be compared; earlier findings are kept.

    Parameters
    ----------
    plan : Plan
    sketches : Sketches
    writer : TrajectoryWriter
    rows : range, optional
        Observations of one part of the run, which is checked alone. Default: all.
    """
    try:
        yield
    except BaseException:
        # The original error is the one to report.
        with contextlib.suppress(RegimeError):
            # Which later checkpoints were read in advance is a matter of chance.
            _note_order(_part(plan.source, rows, writer.count), sketches, writer)
        raise
    _note_order(_part(plan.source, rows, len(plan.source.checkpoints)), sketches, writer)


def _part(source: Source, rows: range | None, count: int) -> Source:
    """Return the source with only those of its first `count` checkpoints that belong to a part of the run."""
    return source.part(range(count) if rows is None else range(rows.start, min(rows.stop, count)))


def _note_order(source: Source, sketches: Sketches, writer: TrajectoryWriter) -> None:
    against = contradiction(source, sketches)
    if against is not None:
        writer.note(**{ORDER_DOUBT: against.message})
    elif source.checkpoints and writer.header.extra.get(ORDER_DOUBT) and sketches.hold(source.checkpoints):
        writer.note(**{ORDER_DOUBT: ""})
