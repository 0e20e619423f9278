"""Recognises the checkpoints in a directory and puts them in order."""

import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

from regime_proto.checkpoints.hub.locations import HubCheckpoint, HubRun, Listing
from regime_proto.checkpoints.locations import entries, first_bytes, is_remote, on_disk
from regime_proto.checkpoints.ordering import Order, by_pattern, order, sequence_of, with_step, without_pointers
from regime_proto.checkpoints.payload import Incomplete, Label, NotACheckpoint, Payload, state_of
from regime_proto.checkpoints.source import Checkpoint, OtherOrder, Skipped, Source, State
from regime_proto.checkpoints.step_in_name import has_integer, has_number, is_pointer
from regime_proto.plugins.protocols import FIRST_BYTES, Lazy, Reader
from regime_proto.plugins.registry import advice_on, capable, rank, reader_named, readers
from regime_proto.plugins.source_settings import AS_DETECTED, SourceSettings
from regime_proto.program.probe import FILE_NAME as PROBE_FILE
from regime_proto.program.program import FILE_NAME as PROGRAM_FILE
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.files import SUFFIX
from regime_proto.schema.nearest import no_such

T = TypeVar("T")
Sniff = Callable[[bytes], bool]

_OWN_FILES = (PROGRAM_FILE, PROBE_FILE)
# The number of entries with one kind of name that are tested for being checkpoints.
_LOOKS = 3
_DIGITS = re.compile(r"\d+")
# On another machine, reading a file costs a request. This many kinds of names without a known suffix get one.
_REMOTE_LOOKS = 50
_SUBFOLDERS = 50


class NoCheckpoint(RegimeError):
    """A directory holds nothing to read."""


class AdapterError(RegimeError):
    """An adapter raised an unexpected error."""


UNFINISHED = "cut off, or still being written"
"""Why a checkpoint at the end is left out; the two cases cannot be told apart."""


@dataclass(frozen=True)
class _Claim:
    """Why an adapter claims entries with one kind of name, and whether their suffix is one of its own."""

    reason: str
    by_suffix: bool


@dataclass(frozen=True)
class _Recognised:
    """The entries of a directory that one adapter reads."""

    adapter: str
    reader: Reader
    reason: str
    paths: list[Path]
    others: list[Skipped]


def open_directory(root: Path, settings: SourceSettings = AS_DETECTED) -> Source:
    """Return the checkpoints in `root`, in step order.

    Checkpoints at the end that are still being written are left out, with a warning.

    Raises
    ------
    RegimeError
        There is no checkpoint, or the order of the checkpoints cannot be determined.
    """
    if isinstance(root, HubRun):
        return _open_published(root, settings)
    if not root.exists():
        raise NoCheckpoint(no_such(root))
    if not root.is_dir():
        raise RegimeError(f"{root}: a file; expected a directory of checkpoints")
    if root.name.endswith(SUFFIX):
        raise RegimeError(
            f"{root}: the segments of an unfinished run; run the command that wrote it again, which measures the rest; "
            f"`regime merge {root}` only joins what was measured"
        )
    found = _recognise(root, settings)
    peek = cache(_guarded(found.reader.peek, found.adapter))
    paths, others = _without_other_families(found.paths, peek)
    if not paths:
        raise NoCheckpoint(f"{root}: no checkpoint found; {others[0].path.name}: {others[0].reason}")
    ordered, skipped = _order(paths, peek, settings.step_pattern)
    _refuse_beyond(ordered)
    checkpoints = [Checkpoint(step, path) for path, step in ordered.steps.items()]
    unfinished = _unfinished([checkpoint.path for checkpoint in checkpoints], peek)
    checkpoints = checkpoints[: len(checkpoints) - len(unfinished)]
    skipped += unfinished
    if not checkpoints:
        raise NoCheckpoint(f"{root}: no complete checkpoint yet ({skipped[-1].path.name} may still be being written)")
    return Source(
        adapter=found.adapter,
        recognised=found.reason,
        root=root,
        step_kind=ordered.kind,
        order=ordered.reason,
        checkpoints=tuple(checkpoints),
        read=_reading(found.reader.read, found.adapter, settings),
        # Remote files would be fetched again for every part.
        read_lazily=None if is_remote(root) else _reading_lazily(found.adapter, settings),
        skipped=(*found.others, *others, *skipped),
        metrics=_metrics(checkpoints, peek),
        other_orders=tuple(OtherOrder(other.reason, tuple(other.steps)) for other in ordered.others),
    ).select()


def _open_published(run: HubRun, settings: SourceSettings) -> Source:
    """Return a published sequence, ordered by names; only the config of one checkpoint is fetched."""
    listing = run.listing()
    ordered, skipped = _order_published(run, listing, settings.step_pattern)
    adapter, recognised = _recognise_published(run, list(ordered.steps), settings)
    return Source(
        adapter=adapter,
        recognised=recognised,
        root=cast(Path, run),
        step_kind=ordered.kind,
        order=ordered.reason,
        checkpoints=tuple(Checkpoint(step, path) for path, step in ordered.steps.items()),
        read=_reading(reader_named(adapter).read, adapter, settings),
        read_lazily=_reading_lazily(adapter, settings),
        skipped=(*(Skipped(cast(Path, path), why) for path, why in listing.left_out.items()), *skipped),
        other_orders=tuple(OtherOrder(other.reason, tuple(other.steps)) for other in ordered.others),
        copies=run.downloads,
    ).select()


def _order_published(run: HubRun, listing: Listing, step_pattern: str | None) -> tuple[Order[Path], list[Skipped]]:
    paths = cast(list[Path], list(listing.found))
    if listing.steps is not None and step_pattern is None:
        steps = {path: listing.steps[path.name] for path in paths}
        ranked = sorted(steps, key=steps.__getitem__)
        return Order({path: steps[path] for path in ranked}, listing.kind, listing.reason), []
    if step_pattern is None and not any(has_integer(path.name) for path in paths):
        shown = ", ".join(path.name for path in paths[:3])
        raise RegimeError(
            f"{run.address.quoted}: none of the matching names holds a number ({shown}); give a pattern that matches "
            "names with the step in them"
        )
    try:
        return _order(paths, lambda _: Label(), step_pattern)
    except RegimeError as error:
        raise RegimeError(
            f"{run.address.quoted}: {error}; or give a pattern that matches the checkpoints of one run only, "
            "with {step} at the position of the step"
        ) from None


def _recognise_published(run: HubRun, paths: Sequence[Path], settings: SourceSettings) -> tuple[str, str]:
    """Return the adapter that reads a published sequence, and how it recognised it."""
    known = _allowed(settings)
    for path in paths[:_LOOKS]:
        with tempfile.TemporaryDirectory(prefix="regime-") as folder:
            outline = Path(folder) / "checkpoint"
            outline.mkdir()
            cast(HubCheckpoint, path).outline(outline)
            asked = {name: reader for name, reader in known.items() if not reader.SUFFIXES}
            reasons = {name: _reason_for(name, reader, outline) for name, reader in asked.items()}
        found = {name: reason for name, reason in reasons.items() if reason is not None}
        if found:
            best = max(found, key=rank)
            return best, found[best]
    where = f"readable weights in {paths[0].name}" if paths else "commit with readable weights"
    raise NoCheckpoint(
        f"{run.address.quoted}: no {where}; expected model.safetensors or "
        "pytorch_model.bin, as one file or in shards, at the top of the repository"
    )


def _allowed(settings: SourceSettings) -> Mapping[str, Reader]:
    """Return the adapters that may read: the requested one, or all."""
    return readers() if settings.adapter is None else {settings.adapter: reader_named(settings.adapter)}


def find_source(root: Path, settings: SourceSettings = AS_DETECTED) -> Source | None:
    """Return the checkpoints in `root`, or None if there are none yet."""
    try:
        return open_directory(root, settings)
    except NoCheckpoint:
        return None


def _reading(
    function: Callable[[Path], Payload], adapter: str, settings: SourceSettings
) -> Callable[[Checkpoint], State]:
    """Return a function that reads the state in a checkpoint."""
    load = _guarded(function, adapter)

    def read(checkpoint: Checkpoint) -> State:
        return state_of(load(checkpoint.path), str(checkpoint.path), weights=settings.weights)

    return read


def _reading_lazily(adapter: str, settings: SourceSettings) -> Callable[[Checkpoint], State] | None:
    """Like `_reading`, but without holding tensors in memory; None if the adapter cannot do this."""
    lazy = capable(adapter, Lazy)
    return None if lazy is None else _reading(lazy.read_lazily, adapter, settings)


def _guarded(function: Callable[[Path], T], adapter: str) -> Callable[[Path], T]:
    """Wrap a function of an adapter so that it accepts any place, and unexpected errors name file and adapter."""

    def apply(path: Path) -> T:
        with on_disk(path) as local:
            try:
                return function(local)
            except (RegimeError, OSError):
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise AdapterError(f"{path}: adapter {adapter!r} fails on it ({reason})") from error

    return apply


def _recognise(root: Path, settings: SourceSettings) -> _Recognised:
    """Return the adapter that recognises most entries; of two that recognise the same ones, the more specific."""
    known = _allowed(settings)
    families = _families(path for path in entries(root) if path.name not in _OWN_FILES)
    found = _claims(families, known)
    claims = {name: _by_suffix_or_content(held, families) for name, held in found.items()}

    def entries_of(name: str) -> int:
        return sum(len(families[family]) for family in claims[name])

    best = max(known, key=lambda name: (entries_of(name), rank(name)))
    if entries_of(best) == 1 and known[best].SUFFIXES:
        _refuse_parent(root, known)
    paths = [path for family in claims[best] for path in families[family]]
    # A numbered entry may be the first of a run. If its name does not show its kind, it may be a part of a checkpoint.
    is_first = any(has_number(path.name) for path in paths)
    if not is_first or not any(claim.by_suffix for claim in claims[best].values()):
        _refuse_single(root, known)
    if not claims[best]:
        raise NoCheckpoint(_nothing(root, [path for members in families.values() for path in members], known))
    largest = max(claims[best], key=lambda family: len(families[family]))
    unlike = dict.fromkeys(found[best], f"has a different suffix from {families[largest][0].name}")
    others = _left_out(families, claims[best], unlike, default=f"not a checkpoint for adapter {best}")
    return _Recognised(best, known[best], claims[best][largest].reason, paths, others)


def _left_out(
    families: Mapping[str, list[Path]], taken: Collection[str], reasons: Mapping[str, str], *, default: str
) -> list[Skipped]:
    """Return the entries whose kind of name is not used, each with the reason."""
    return [
        Skipped(path, reasons.get(family, default))
        for family, members in families.items()
        if family not in taken
        for path in members
    ]


def _claims(families: Mapping[str, list[Path]], known: Mapping[str, Reader]) -> dict[str, dict[str, _Claim]]:
    """Return the kinds of names that each adapter recognises."""
    claims: dict[str, dict[str, _Claim]] = {name: {} for name in known}
    sniffing = _sniffing(known)
    unknown = 0
    for family, members in families.items():
        looks = unknown < _REMOTE_LOOKS or not is_remote(members[0])
        found = _claims_on(known, members, sniffing if looks else {})
        unknown += not found
        for name, claim in found.items():
            claims[name][family] = claim
    return claims


def _by_suffix_or_content(claims: Mapping[str, _Claim], families: Mapping[str, list[Path]]) -> dict[str, _Claim]:
    """Return what an adapter reads: only entries with its suffixes, or all if most were recognised by content alone.

    A directory of files such as ``step_1.pt`` may hold other files that torch saved, such as ``features_1.pkl``.
    """
    with_suffix = {family: claim for family, claim in claims.items() if claim.by_suffix}
    count = sum(len(families[family]) for family in with_suffix)
    return with_suffix if 2 * count >= sum(len(families[family]) for family in claims) else dict(claims)


def _families(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return entries by name without digits: names that differ only in digits are of one kind."""
    families: dict[str, list[Path]] = {}
    for path in paths:
        families.setdefault(_DIGITS.sub("#", path.name), []).append(path)
    return families


def _sniffing(known: Mapping[str, Reader]) -> dict[str, Sniff]:
    # An isinstance test of the protocol would cost as much as the rest of a short listing.
    return {name: reader.sniff for name, reader in known.items() if hasattr(reader, "sniff")}


def _claims_on(
    known: Mapping[str, Reader], members: Sequence[Path], sniffing: Mapping[str, Sniff]
) -> dict[str, _Claim]:
    """Return the claims of the adapters that recognise entries of one kind."""
    # The last entries may still be being written.
    for place in members[:_LOOKS]:
        is_folder, suffix = place.is_dir(), place.suffix
        asked = {
            name: reader
            for name, reader in known.items()
            if (is_folder if not reader.SUFFIXES else suffix in reader.SUFFIXES)
        }
        reasons = _reasons(asked, place)
        by_suffix = bool(reasons)
        # If an adapter recognises an entry by its suffix, others do not try its content.
        if not reasons and sniffing and not is_folder:
            reasons = _reasons({name: known[name] for name in _sniffed(sniffing, place)}, place)
        if reasons:
            return {name: _Claim(reason, by_suffix) for name, reason in reasons.items()}
    return {}


def _sniffed(sniffing: Mapping[str, Sniff], place: Path) -> list[str]:
    """Return the adapters that may read a file by its first bytes; none for a pipe or a device."""
    start = first_bytes(place, FIRST_BYTES) if place.is_file() else b""
    return [name for name, sniff in sniffing.items() if start and _may_be(name, sniff, start, place)]


def _may_be(name: str, sniff: Sniff, start: bytes, place: Path) -> bool:
    try:
        return sniff(start)
    except Exception as error:
        warnings.warn(
            f"{place}: adapter {name!r} fails on its first bytes ({type(error).__name__}); the adapter is ignored here",
            RegimeWarning,
            stacklevel=2,
        )
        return False


def _reasons(asked: Mapping[str, Reader], place: Path) -> dict[str, str]:
    """Return how the adapters that recognise an entry describe it."""
    if not asked:
        return {}
    # A remote file is fetched once for all of them.
    with on_disk(place) as path:
        found = {name: _reason_for(name, reader, path) for name, reader in asked.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def _reason_for(name: str, reader: Reader, path: Path) -> str | None:
    try:
        return _guarded(reader.recognise, name)(path)
    except AdapterError as error:
        warnings.warn(f"{error}; the adapter is ignored here", RegimeWarning, stacklevel=2)
        return None


def _refuse_single(root: Path, known: Mapping[str, Reader]) -> None:
    """Raise an error if `root` itself is one checkpoint, or is of a known kind that cannot be read."""
    if is_remote(root):
        return
    for reader in known.values():
        reason = None if reader.SUFFIXES else reader.recognise(root)
        if reason is not None:
            raise RegimeError(_single(root, reason, "pt"))
    advice = advice_on([root, *entries(root)])
    if advice is not None:
        raise NoCheckpoint(advice)


def _single(where: Path, reason: str, suffix: str) -> str:
    return (
        f"{where}: a single checkpoint ({reason}); give the directory that holds all checkpoints of the run; if "
        f"training overwrites it, save each under a different name, such as step_000100.{suffix}"
    )


def _refuse_parent(root: Path, known: Mapping[str, Reader]) -> None:
    """Raise an error if a file that looks like a single checkpoint, such as a probe, is next to a directory of more."""
    best, count = _most_below(entries(root), known)
    if count > 1:
        raise NoCheckpoint(f"{root}: one file that could be a checkpoint, but {count} in {best}; give that directory")


def _most_below(paths: Sequence[Path], known: Mapping[str, Reader]) -> tuple[Path | None, int]:
    """Return the folder among `paths` with the most checkpoints, and their number."""
    folders = [path for path in paths if path.is_dir()][:_SUBFOLDERS]
    below = [(folder, _recognised_below(folder, known)) for folder in folders]
    return max(below, key=lambda found: found[1], default=(None, 0))


def _nothing(root: Path, paths: list[Path], known: Mapping[str, Reader]) -> str:
    best, count = _most_below(paths, known)
    if count:
        return f"{root}: no checkpoint found, but {count} in {best}; give that directory"
    suffixes = " ".join(sorted({suffix for reader in known.values() for suffix in reader.SUFFIXES}))
    holds = f"it holds {', '.join(path.name for path in paths[:3])}" if paths else "it is empty"
    expected = f"files of {suffixes}, or with the content of such files" if suffixes else "folders"
    return f"{root}: no checkpoint found ({holds}); expected {expected}"


def _recognised_below(folder: Path, known: Mapping[str, Reader]) -> int:
    counts, sniffing = Counter[str](), _sniffing(known)
    for members in _families(entries(folder)).values():
        counts.update(dict.fromkeys(_claims_on(known, members, sniffing), len(members)))
    return max(counts.values(), default=0)


def _without_other_families(paths: list[Path], peek: Callable[[Path], Label]) -> tuple[list[Path], list[Skipped]]:
    """Set aside files that hold something else, such as optimizer states; one file of a family stands for all."""
    kept, skipped = [], []
    for members in _families(paths).values():
        reason = _reason_against(members, peek)
        if reason is None:
            kept += members
        else:
            skipped += [Skipped(path, reason) for path in members]
    return kept, skipped


def _reason_against(members: list[Path], peek: Callable[[Path], Label]) -> str | None:
    for path in members:
        try:
            peek(path)
        except NotACheckpoint as error:
            return str(error)
        except RegimeError:
            # A damaged file does not show what its family holds. It causes an error later, when it is read.
            continue
        return None
    return None


def _order(
    paths: list[Path], peek: Callable[[Path], Label], step_pattern: str | None
) -> tuple[Order[Path], list[Skipped]]:
    """Return the order of the entries, and the entries without a step."""
    if step_pattern is not None:
        ordered = by_pattern(step_pattern, paths)
        return ordered, [
            Skipped(path, "--step-pattern does not match its name") for path in paths if path not in ordered.steps
        ]
    kept, pointers = without_pointers(paths)
    if len(paths) == 1 and _is_single(paths[0], peek):
        raise RegimeError(_single(paths[0].parent, paths[0].name, paths[0].suffix[1:] or "pt"))
    # If the steps are read from the payloads, an entry that is still being written cannot be read.
    skipped = _unfinished(sequence_of(kept), peek)
    if skipped:
        gone = {entry.path for entry in skipped}
        kept = [path for path in kept if path not in gone]
    ordered = order(kept, peek, beside=pointers)
    for pointer in pointers:
        found = _step_of_pointer(pointer, ordered, peek)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            ordered = with_step(ordered, pointer, found)
    return ordered, skipped


def _refuse_beyond(ordered: Order[Path]) -> None:
    """Raise an error if a step is larger than what a trajectory can hold."""
    path = next((path for path, step in ordered.steps.items() if not -(2**63) <= step < 2**63), None)
    if path is not None:
        raise RegimeError(
            f"{path}: {ordered.kind} {ordered.steps[path]:.6g} ({ordered.reason}), expected a number below 2**63; "
            r"rename the file, or select the digits of the step with --step-pattern, for example 'step_(\d{1,18})'"
        )


def _is_single(path: Path, peek: Callable[[Path], Label]) -> bool:
    """Whether neither name nor payload shows that a checkpoint is the first of a sequence."""
    if has_integer(path.name) and not is_pointer(path.name):
        return False
    try:
        label = peek(path)
    except RegimeError:
        # A damaged file causes an error of its own.
        return False
    return label.step is None and label.epoch is None


def _step_of_pointer(pointer: Path, ordered: Order[Path], peek: Callable[[Path], Label]) -> int | Skipped:
    """Return the step of a file such as ``last.ckpt`` or ``init.pt`` if it holds a new one; else why it is skipped."""
    try:
        step = peek(pointer).step
    except RegimeError as error:
        return Skipped(pointer, f"cannot be read: {error}")
    if step is not None and ordered.kind == "step":
        return Skipped(pointer, f"a copy of step {step}") if step in ordered.steps.values() else step
    if has_integer(pointer.name) and is_pointer(pointer.name):
        return Skipped(pointer, "it does not hold its step, and by its name it is a copy")
    return Skipped(pointer, "it does not hold its step, and its name has none")


def _unfinished(paths: Sequence[Path], peek: Callable[[Path], Label]) -> list[Skipped]:
    """Return the incomplete checkpoints at the end."""
    skipped: list[Skipped] = []
    for path in reversed(paths):
        try:
            peek(path)
        except Incomplete as error:
            skipped.append(Skipped(path, UNFINISHED))
            warnings.warn(_unfinished_line(error), RegimeWarning, stacklevel=4)
            continue
        except RegimeError:
            # It causes an error later, when it is read after the steps before it.
            pass
        break
    return skipped


def _unfinished_line(error: Incomplete) -> str:
    # Readers word the error for a checkpoint in the middle of a run, which nobody can still be writing.
    found = str(error).removesuffix("; save it again or remove it").replace("damaged or incomplete", "incomplete")
    return (
        f"{found}: {UNFINISHED}; left out. If training is still writing it, run this again later; otherwise save it "
        "again or remove it"
    )


def _metrics(checkpoints: Sequence[Checkpoint], peek: Callable[[Path], Label]) -> tuple[str, ...]:
    """Return the names of the metrics in the first and the last checkpoint: some metrics begin later than the run."""
    names: dict[str, None] = {}
    for checkpoint in (checkpoints[0], checkpoints[-1]):
        try:
            names |= dict.fromkeys(peek(checkpoint.path).metrics)
        except RegimeError:
            continue
    return tuple(names)
