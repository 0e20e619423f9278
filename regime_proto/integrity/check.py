"""Checks a directory of checkpoints: one pass over the files, then the rules."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from regime_proto.directory import Reading, open_directory
from regime_proto.engine.graph.program import FILE_NAME as PROGRAM_FILE
from regime_proto.engine.graph.program import Program
from regime_proto.integrity import rules
from regime_proto.integrity.findings import ADVICE, ERROR, Finding
from regime_proto.integrity.jumps import counted_tensors, jumps
from regime_proto.integrity.scan import Progress, Scan, distances, scan
from regime_proto.places import as_place, on_disk
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.source import Skipped, Source

# What explains that a state lies far off the others.
_EXPLAINS = ("duplicate", "final-weights", "mixed-shards", "odd-tensors", "non-finite")
# Reasons of `directory` for which it leaves out what may be damaged.
_DAMAGED = ("not complete yet", "cannot be read")


@dataclass(frozen=True)
class Report:
    """What a check looked at, and what it found.

    Parameters
    ----------
    root : str
    adapter : str
    recognised : str
        In words, what the adapter recognised the checkpoints by.
    step_kind : str
        ``step``, ``epoch`` or ``ordinal``.
    order : str
        In words, where the steps were taken from.
    steps : tuple of int
        Of the checkpoints, those among them that could not be read too.
    tensors, parameters : int
        In the last state that could be read; parameters are elements of floating tensors.
    size : int
        Bytes of all tensors that were read.
    skipped : tuple of Skipped
    findings : tuple of Finding
    """

    root: str
    adapter: str
    recognised: str
    step_kind: str
    order: str
    steps: tuple[int, ...]
    tensors: int
    parameters: int
    size: int
    skipped: tuple[Skipped, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; a warning may stand among the findings."""
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def stride(self) -> int | None:
        """Steps from each checkpoint to the next; None if they differ."""
        strides = {later - earlier for earlier, later in pairwise(self.steps)}
        return strides.pop() if len(strides) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "json_version": 1,
            "path": self.root,
            "ok": self.ok,
            "error": None,
            "adapter": self.adapter,
            "checkpoints": len(self.steps),
            "step_kind": self.step_kind,
            "first_step": self.steps[0],
            "last_step": self.steps[-1],
            "stride": self.stride,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.size,
            "skipped": [{"path": str(entry.path), "reason": entry.reason} for entry in self.skipped],
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(
    source: str | os.PathLike[str] | Source,
    *,
    frozen: Sequence[str] = (),
    steps: str | None = None,
    every: int | None = None,
    adapter: str | None = None,
    step_pattern: str | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Look whether a sequence of checkpoints is what it claims to be, without a model.

    Every state is read once, those that look suspicious twice; at most two are held at a time.

    Parameters
    ----------
    source : path or Source
        Directory of checkpoints, or its URL.
    frozen : sequence of str
        Globs over the names of tensors that are meant to stay as they are.
    steps : str, optional
        ``"A:B"``, both included: the steps to look at.
    every : int, optional
        Look at every k-th checkpoint only.
    adapter, step_pattern, weights : str, optional
        See `directory.Reading`.
    progress : callable, optional
        Called with the number of checkpoints done, and of all.

    Returns
    -------
    Report

    Raises
    ------
    RegimeError
        There is no sequence of checkpoints.
    """
    if not isinstance(source, Source):
        source = _opened(source, Reading(adapter, step_pattern, weights))
    source = source.select(steps, every)
    if not source.checkpoints:
        raise RegimeError(f"{source.root}: no checkpoint to check; widen --steps or lower --every")
    # A single pattern is a sequence of letters, which nobody means.
    frozen = (frozen,) if isinstance(frozen, str) else frozen
    scanned = scan(source, progress=progress)
    if not scanned.summaries:
        first = scanned.unreadable[0]
        raise RegimeError(
            f"{source.root}: none of the {len(source.checkpoints)} checkpoints can be read; "
            f"{source.step_kind} {first.step}: {first.reason}"
        )
    last = scanned.summaries[-1]
    return Report(
        root=str(source.root),
        adapter=source.adapter,
        recognised=source.recognised,
        step_kind=source.step_kind,
        order=source.order,
        steps=tuple(checkpoint.step for checkpoint in source.checkpoints),
        tensors=len(last.forms),
        parameters=sum(form.size for form in last.forms.values() if form.floating),
        size=scanned.size,
        skipped=source.skipped,
        findings=tuple(_findings(source, scanned, frozen)),
    )


def _opened(source: object, reading: Reading) -> Source:
    with warnings.catch_warnings():
        # What is not complete becomes a finding.
        warnings.filterwarnings("ignore", ".*training may still be writing it", RegimeWarning)
        return open_directory(as_place(source), reading)


def _findings(source: Source, scanned: Scan, frozen: Sequence[str]) -> list[Finding]:
    summaries = scanned.summaries
    trainable, found = _trainable(source)
    found += _left_out(source)
    found += rules.unreadable(scanned.unreadable)
    found += rules.mixed_shards(summaries)
    found += rules.duplicates(summaries)
    found += rules.odd_tensors(summaries)
    found += rules.non_finite(summaries)
    explained = {step for finding in found if finding.rule in _EXPLAINS for step in finding.steps}
    names = counted_tensors(summaries, trainable)
    found += [
        finding
        for finding in jumps(summaries, distances(source), names)
        if finding.rule != "detour" or not explained.issuperset(finding.steps)
    ]
    found += rules.missing_steps([checkpoint.step for checkpoint in source.checkpoints])
    found += rules.unchanging(summaries, frozen=frozen, trainable=trainable)
    rules_in_order = list(ADVICE)
    return sorted(found, key=lambda finding: (finding.severity != ERROR, rules_in_order.index(finding.rule)))


def _left_out(source: Source) -> Iterator[Finding]:
    """Find what was left out of the sequence because it may be damaged."""
    for entry in source.skipped:
        if entry.reason.startswith(_DAMAGED):
            reason = entry.reason.replace(_DAMAGED[0], "cut off, or still being written")
            yield Finding("unreadable", f"{entry.path.name}: {reason}")


def _trainable(source: Source) -> tuple[frozenset[str] | None, list[Finding]]:
    """Return the names that a program in the directory says are trainable; None if there is none."""
    path = source.root / PROGRAM_FILE
    if not path.is_file():
        return None, []
    try:
        with on_disk(path) as local:
            program = Program.load(local)
    except RegimeError as error:
        return None, [Finding("unreadable", str(error))]
    return frozenset(name for tensor in program.trainable for name in (tensor.name, *tensor.aliases)), []
