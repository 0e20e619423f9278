"""A run that several processes measure: the observations of each process, and the agreement of all.

A shard is one of N contiguous parts, each consisting of whole segments. The first process writes the agreement to the
folder of segments, and the others compare theirs with it. The segments themselves show what is done.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from regime_proto.schema.errors import RegimeError, TrajectoryError
from regime_proto.schema.files import create_new, temporary_in
from regime_proto.schema.segments import AGREED, check_segments, open_segment, segments_by_number
from regime_proto.schema.words import counted

_SHOWN = 20


@dataclass(frozen=True)
class Shard:
    """The part of a run that one process measures.

    Parameters
    ----------
    number : int
        The number of the shard, from 1.
    count : int
        The number of shards.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise RegimeError(f"--shard {self}: expected I/N with I from 1 to N, for example 1/{max(2, self.count)}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse ``I/N``.

        Raises
        ------
        RegimeError
            The text has a different form.
        """
        number, sign, count = text.partition("/")
        if not (sign and number.strip().isdecimal() and count.strip().isdecimal()):
            raise RegimeError(f"--shard {text!r}: expected I/N, for example 1/8 for the first of eight parts")
        return cls(int(number), int(count))

    def rows(self, observations: int, per_segment: int) -> range:
        """Return the numbers of its observations: whole segments, none if there are more shards than segments."""
        segments = -(-observations // per_segment)
        first, last = (segments * number // self.count * per_segment for number in (self.number - 1, self.number))
        return range(min(first, observations), min(last, observations))


@dataclass(frozen=True)
class Agreement:
    """The agreement of all parts of a run.

    Parameters
    ----------
    terms : mapping of str to str
        The settings that must be the same for all parts, in words.
    run_id, created : str
        Attributes of the trajectory.
    observations : int
        The number of observations of the whole run.
    per_segment : int
        The number of observations in a full segment.
    ends : sequence of str
        The `source_fingerprint` of each complete segment.
    command : sequence of str
        The command line of a part without its shard; empty if there is none.
    shards : int
        The number of shards into which the first process divided the run.
    """

    terms: Mapping[str, str]
    run_id: str
    created: str
    observations: int
    per_segment: int
    ends: Sequence[str]
    command: Sequence[str] = ()
    shards: int = 1

    def command_of(self, shard: Shard) -> str:
        """Return the command for a shard, quoted for a shell."""
        if not self.command:
            return f"the call of convert with shard={str(shard)!r}"
        return shlex.join([*self.command, "--shard", str(shard)])


def agree(folder: Path, ours: Agreement) -> Agreement:
    """Return the agreement of the parts of a run: the existing one in the folder, else `ours`, which is written there.

    Raises
    ------
    TrajectoryError
        The folder holds parts of a different plan.
    OSError
        The agreement cannot be written.
    """
    temporary = temporary_in(folder)
    try:
        with create_new(temporary) as file:
            file.write(json.dumps(asdict(ours), indent=1).encode())
            os.fsync(file.fileno())
        # Complete or not at all, and only if there is none yet.
        with suppress(FileExistsError):
            _link(temporary, folder / AGREED)
    finally:
        temporary.unlink(missing_ok=True)
    found = read_agreement(folder)
    if found is None:
        raise TrajectoryError(f"{folder}: removed while a part of the run started; run the same command again")
    require_same(folder, found, ours)
    return found


def require_same(folder: Path, found: Agreement, ours: Agreement) -> None:
    """Raise an error unless the agreement in a folder is the one that a part would write.

    Raises
    ------
    TrajectoryError
        The agreements differ; the message names the first difference.
    """
    for name in (*ours.terms, *found.terms):
        begun, now = found.terms.get(name, "none"), ours.terms.get(name, "none")
        if begun != now:
            raise TrajectoryError(
                f"{folder}: holds parts of a different plan: {name} {begun}, here {now}; give all parts the same "
                "options, checkpoints and versions, choose another output, or remove that folder to start again"
            )


def _link(temporary: Path, path: Path) -> None:
    """Give a file a second name, unless a file of that name exists."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems have no hard links.
        with create_new(path) as file:
            file.write(temporary.read_bytes())


def read_agreement(folder: Path) -> Agreement | None:
    """Return the agreement of the parts of a run; None if the run is not divided into parts.

    Raises
    ------
    TrajectoryError
        The file is damaged.
    """
    path = folder / AGREED
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Agreement(**json.loads(content))
    except (ValueError, TypeError):
        raise TrajectoryError(f"{path}: damaged; delete it, and run the command of any part again") from None


def require_all_parts(folder: Path) -> None:
    """Raise an error unless all segments of a run in parts exist.

    Raises
    ------
    TrajectoryError
        Parts are missing; the message names them, with the commands that compute them.
    """
    agreed = read_agreement(folder)
    if agreed is None:
        return
    held = _held(folder, agreed)
    missing: list[Shard] = []
    lacking = 0
    for number in range(1, agreed.shards + 1):
        shard = Shard(number, agreed.shards)
        rows = shard.rows(agreed.observations, agreed.per_segment)
        there = sum(held.get(index // agreed.per_segment, 0) for index in rows[:: agreed.per_segment])
        if there < len(rows):
            missing.append(shard)
            lacking += len(rows) - there
    if missing:
        commands = "; ".join(agreed.command_of(shard) for shard in missing[:_SHOWN])
        more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise TrajectoryError(
            f"{folder}: {len(missing)} of {counted(agreed.shards, 'part')} incomplete, {lacking} of "
            f"{counted(agreed.observations, 'observation')} missing; run {commands}{more}"
        )


def _held(folder: Path, agreed: Agreement) -> dict[int, int]:
    """Return the number of observations in each complete segment of the run, by the number of the segment."""
    paths = segments_by_number(folder)
    check_segments(list(paths.values()))
    held: dict[int, int] = {}
    for index, path in paths.items():
        with open_segment(path, check=False) as segment:
            if index >= len(agreed.ends) or segment.attrs["source_fingerprint"] != agreed.ends[index]:
                # Not yet complete, or left by a run with other inputs.
                continue
            if segment.attrs["run_id"] != agreed.run_id:
                raise TrajectoryError(f"{path}: belongs to a different run from {folder / AGREED}; delete the segment")
            held[index] = len(segment["step"])
    return held
