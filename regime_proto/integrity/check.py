"""Checks a directory of checkpoints: one pass over the files, then the rules."""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from regime_proto.checkpoints.locations import as_place, is_remote, on_disk
from regime_proto.checkpoints.opening import FOLDER, kind_of
from regime_proto.checkpoints.source import Skipped, Source
from regime_proto.integrity import rules
from regime_proto.integrity.against import states_of_another, unread
from regime_proto.integrity.findings import ADVICE, ERROR, Finding, spell_steps
from regime_proto.integrity.jumps import counted_tensors, jumps
from regime_proto.integrity.order import contradiction
from regime_proto.integrity.scan import Progress, Scan, distances, scan
from regime_proto.plugins.open_directory import UNFINISHED, open_directory
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.program.program import FILE_NAME as PROGRAM_FILE
from regime_proto.program.program import Program
from regime_proto.schema.display import Display, Displayed, Table
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.types import as_tuple
from regime_proto.schema.words import counted

# Rules that explain why a state is far from the others.
_EXPLAINS = ("duplicate", "final-weights", "mixed-shards", "odd-tensors", "non-finite")
_MOVE = "it holds no weights and is not a checkpoint: move"
_WAIT = (
    "if training is still writing it, check again later; otherwise copy it again from where it was saved, "
    "or move it out of the directory"
)
# The reasons why `open_directory` leaves out an entry that may be damaged.
_DAMAGED = (UNFINISHED, "cannot be read")


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """What a check read, and what it found.

    Parameters
    ----------
    root : str
        The directory that was read.
    adapter : str
        Name of the adapter that read it.
    recognised : str
        How the adapter recognised the checkpoints, in words.
    step_kind : str
        ``step``, ``epoch`` or ``ordinal``.
    order : str
        Where the steps were taken from, in words.
    steps : tuple of int
        The steps of all checkpoints, including those that could not be read.
    tensors : int
        Number of tensors in the last state that could be read.
    parameters : int
        Number of elements of its floating tensors.
    size : int
        Total size of the tensors that were read, in bytes.
    skipped : tuple of Skipped
        Checkpoints that could not be read.
    findings : tuple of Finding
        What looks wrong.
    against : str, optional
        The directory of the run that this one was compared with.
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
    against: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings among the findings are allowed."""
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def stride(self) -> int | None:
        """The number of steps from each checkpoint to the next; None if it varies."""
        strides = {later - earlier for earlier, later in pairwise(self.steps)}
        return strides.pop() if len(strides) == 1 else None

    @property
    def extent(self) -> str:
        """In words, how many checkpoints there are, and from which step to which."""
        kind, count = self.step_kind, len(self.steps)
        if count == 1:
            return f"1, {kind} {self.steps[0]}"
        stride = f"stride {self.stride}" if self.stride is not None else "uneven strides"
        return f"{count}, {kind} {self.steps[0]} to {self.steps[-1]}, {stride}"

    def _display(self) -> Display:
        found = tuple((finding.rule, spell_steps(finding.steps), finding.message) for finding in self.findings)
        advice = dict.fromkeys((finding.rule, finding.advice) for finding in self.findings)
        tables = (Table(found, headings=("found", self.step_kind, "what")), "What to do:", Table(tuple(advice)))
        facts = (("adapter", f"{self.adapter} ({self.recognised})"), ("checkpoints", self.extent))
        verdict = "nothing wrong found" if self.ok else ""
        return Display(self.root, (Table(facts), *(tables if found else ()), verdict))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "json_version": 1,
            "path": self.root,
            "against": self.against,
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
    against: str | os.PathLike[str] | Source | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check whether a sequence of checkpoints is what it claims to be, without a model.

    Every state is read once, or twice if it looks suspicious. At most two states are in memory at a time.

    Parameters
    ----------
    source : path or Source
        Directory of checkpoints, or its URL.
    frozen : sequence of str
        Globs for the names of tensors that must not change.
    steps : str, optional
        The steps to check, ``"A:B"``, including both ends.
    every : int, optional
        Check only every k-th checkpoint.
    adapter, step_pattern, weights : str, optional
        See `SourceSettings`; they apply to both runs.
    against : path or Source, optional
        Another run: find states that hold its weights. All its checkpoints are read, regardless of `steps` and `every`.
    progress : callable, optional
        Called with the number of checkpoints that are done, and the total number.

    Returns
    -------
    Report

    Raises
    ------
    RegimeError
        One of the two places holds no sequence of checkpoints.
    """
    settings = SourceSettings(adapter, step_pattern, weights)
    source, found = _without_others(_opened(source, settings).select(steps, every))
    if not source.checkpoints:
        why = "; ".join(f"{finding.message}; {finding.advice}" for finding in found[:1])
        raise RegimeError(f"{source.root}: no checkpoint to check; {why or 'widen --steps or lower --every'}")
    other = None if against is None else _other(against, source, settings)
    # A single pattern would otherwise be read as a sequence of letters.
    frozen = as_tuple(frozen, "frozen")
    known, damaged = _known(source)
    found += damaged
    count = len(source.checkpoints)
    total = count + (0 if other is None else len(other.checkpoints))
    scanned = _scanned(source, known.trainable, progress, (0, total))
    found += _findings(source, scanned, frozen, known)
    if other is not None:
        found += _shared(scanned, _scanned(other, None, progress, (count, total)), str(other.root))
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
        findings=tuple(_sorted(found)),
        against=None if other is None else str(other.root),
    )


def _opened(source: object, settings: SourceSettings) -> Source:
    if isinstance(source, Source):
        return source
    with warnings.catch_warnings():
        # Incomplete checkpoints become findings.
        warnings.filterwarnings("ignore", f".*: {UNFINISHED}; left out", RegimeWarning)
        return open_directory(as_place(source), settings)


def _without_others(source: Source) -> tuple[Source, list[Finding]]:
    """Return the checkpoints that are files or folders, and findings for the entries that are neither."""
    kinds = {} if is_remote(source.root) else {entry: kind_of(entry.path) for entry in source.checkpoints}
    others = {entry: kind for entry, kind in kinds.items() if kind is not None and kind != FOLDER}
    found = [
        Finding("unreadable", f"{entry.path.name}: {kind}, not a file", remedy=f"{_MOVE} {entry.path.name} away")
        for entry, kind in others.items()
    ]
    return replace(source, checkpoints=tuple(entry for entry in source.checkpoints if entry not in others)), found


def _other(against: object, source: Source, settings: SourceSettings) -> Source:
    other = _opened(against, settings)
    if _place(other) == _place(source):
        raise RegimeError(f"--against {other.root}: the same directory; expected the directory of another run")
    return other


def _shared(scanned: Scan, others: Scan, where: str) -> Iterator[Finding]:
    yield from states_of_another(scanned.summaries, others.summaries, where)
    yield from unread(others, where)


def _place(source: Source) -> object:
    return source.root if is_remote(source.root) else source.root.resolve()


def _scanned(
    source: Source, trainable: Collection[str] | None, progress: Progress | None, part: tuple[int, int]
) -> Scan:
    """Scan one of the runs; `part` is the number of checkpoints done before, and the total number."""
    before, total = part
    scanned = scan(
        source,
        trainable=trainable,
        progress=None if progress is None else lambda done, _: progress(before + done, total),
    )
    if not scanned.summaries:
        first = scanned.unreadable[0]
        raise RegimeError(
            f"{source.root}: none of {counted(len(source.checkpoints), 'checkpoint')} can be read; "
            f"{source.step_kind} {first.step}: {first.reason}"
        )
    return scanned


def _findings(source: Source, scanned: Scan, frozen: Sequence[str], known: "_Known") -> list[Finding]:
    summaries = scanned.summaries
    found = list(_left_out(source))
    found += rules.unreadable(scanned.unreadable)
    found += rules.mixed_shards(summaries)
    found += rules.duplicates(summaries)
    found += rules.odd_tensors(summaries)
    found += rules.non_finite(summaries, [checkpoint.step for checkpoint in source.checkpoints])
    explained = {step for finding in found if finding.rule in _EXPLAINS for step in finding.steps}
    names = counted_tensors(summaries, known.trainable)
    jumping = [
        finding
        for finding in jumps(summaries, distances(source), names)
        if finding.rule != "detour" or not explained.issuperset(finding.steps)
    ]
    explained |= {step for finding in jumping if finding.rule == "detour" for step in finding.steps}
    found += [*jumping, *_misplaced(source, scanned, explained)]
    found += rules.missing_steps([checkpoint.step for checkpoint in source.checkpoints])
    found += rules.unchanging(summaries, frozen=frozen, trainable=known.trainable, used=known.used)
    return found


def _misplaced(source: Source, scanned: Scan, explained: Collection[int]) -> Iterator[Finding]:
    """Find an order that the weights contradict."""
    against = contradiction(source, scanned.sketches, tuple(explained))
    if against is not None:
        yield Finding("order", against.message, against.steps)


def _sorted(found: Sequence[Finding]) -> list[Finding]:
    rules_in_order = list(ADVICE)
    return sorted(found, key=lambda finding: (finding.severity != ERROR, rules_in_order.index(finding.rule)))


def _left_out(source: Source) -> Iterator[Finding]:
    """Find entries that were left out of the sequence because they may be damaged."""
    for entry in source.skipped:
        if entry.reason.startswith(_DAMAGED):
            remedy = _WAIT if entry.reason == UNFINISHED else ""
            yield Finding("unreadable", f"{entry.path.name}: {entry.reason}", remedy=remedy)


@dataclass(frozen=True)
class _Known:
    """What a program in the directory says about the tensors.

    Parameters
    ----------
    trainable : frozenset of str, optional
        Names and aliases of the trainable tensors; None without a program.
    used : frozenset of str
        The subset that its graph uses.
    """

    trainable: frozenset[str] | None = None
    used: frozenset[str] = frozenset()


def _known(source: Source) -> tuple[_Known, list[Finding]]:
    path = source.root / PROGRAM_FILE
    if not path.is_file():
        return _Known(), []
    try:
        with on_disk(path) as local:
            program = Program.load(local)
        names = {tensor.name: (tensor.name, *tensor.aliases) for tensor in program.trainable}
        used = {name for tensor, spelled in names.items() if tensor in program.weight_inputs for name in spelled}
    except RegimeError as error:
        return _Known(), [Finding("unreadable", str(error))]
    return _Known(frozenset(name for spelled in names.values() for name in spelled), frozenset(used)), []
