"""A published sequence and its checkpoints as locations: see `checkpoints.locations`."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regime_proto.checkpoints.hub.address import SCHEME, Address, literal, steps_in
from regime_proto.checkpoints.hub.client import File, Hub, NotFetched
from regime_proto.checkpoints.hub.downloads import Downloads
from regime_proto.checkpoints.hub.files import CONFIG, HEADED, text_among, weights_among
from regime_proto.schema.errors import RegimeError

if TYPE_CHECKING:
    from regime_proto.checkpoints.source import Source

_STEP_IN_TITLE = re.compile(r"\bstep[ =_-]?(\d+)\b", re.IGNORECASE)
_AT_ONCE = 5
# Number of concurrent file listings.
_ASKING = 8


class HubPlace:
    """A location on the Hub that does not exist."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __str__(self) -> str:
        return self._address

    def __truediv__(self, name: str) -> "HubPlace":
        return HubPlace(f"{self}/{name}")

    @property
    def suffix(self) -> str:
        """Nothing: no location on the Hub is a single file."""
        return ""

    def exists(self) -> bool:
        """Whether there is something."""
        return False

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return False

    def is_file(self) -> bool:
        """Whether it is a file."""
        return False


@dataclass(frozen=True)
class HubCheckpoint(HubPlace):
    """A commit of a repository that holds weights.

    Parameters
    ----------
    repository : str
    commit : str
    name : str
        Its name in the sequence: a revision, a repository, or the number and title of a commit.
    shown : str
        The address of this checkpoint alone.
    downloads : Downloads
    """

    repository: str
    commit: str
    name: str
    shown: str = field(compare=False)
    downloads: Downloads = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def parent(self) -> HubPlace:
        """The repository."""
        return HubPlace(f"{SCHEME}{self.repository}")

    def exists(self) -> bool:
        """Whether there is something."""
        return True

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return True

    @property
    def is_outlined(self) -> bool:
        """Whether names and shapes of its tensors are available without their values."""
        return all(file.name.endswith((HEADED, ".json")) for file in self.files)

    @property
    def files(self) -> tuple[File, ...]:
        """The files to fetch: its config, and its weights in the preferred format."""
        listed = self._listed()
        names = weights_among(listed)
        return tuple(listed[name] for name in (*names, CONFIG) if name in listed)

    def size(self) -> int:
        """Return the bytes to fetch."""
        return sum(file.size for file in self.files)

    def stamps(self) -> list[list[Any]]:
        """Return what identifies its content: a branch may move, a commit does not."""
        return [[f"{SCHEME}{self.repository}", self.commit]]

    @contextmanager
    def copied(self, *, values: bool) -> Iterator[Path]:
        """Yield a folder with a copy, which is kept until it is released.

        Parameters
        ----------
        values : bool
            Whether tensor values are needed. If not, the copy also holds the tokenizer, and
            safetensors files hold only their headers.
        """
        listed = self._listed()
        if not weights_among(listed):
            raise RegimeError(
                f"{self}: no weights in a readable format; leave it out with --steps or a narrower pattern"
            )
        beside = [] if values else [listed[name] for name in text_among(listed)]
        begun = [] if values else [file for file in self.files if file.name.endswith(HEADED)]
        if begun and self.downloads.keep:
            # Kept copies must be complete.
            self._held(self.downloads, beside)
        downloads = self.downloads.apart if begun else self.downloads
        local = self._held(downloads, [*(file for file in self.files if file not in begun), *beside])
        for file in begun:
            downloads.begin(self.folder, self.repository, self.commit, file)
        yield local

    def _held(self, downloads: Downloads, files: Sequence[File]) -> Path:
        return downloads.hold(self.folder, self.repository, self.commit, files)

    def outline(self, folder: Path) -> None:
        """Put its config into a folder, with empty files instead of its weights, for adapters to recognise."""
        for file in self.files:
            if file.name == CONFIG:
                self.downloads.hub.download(self.repository, self.commit, file, folder / CONFIG)
            else:
                (folder / file.name).touch()

    @property
    def folder(self) -> str:
        """The name of the folder that holds its copy."""
        plain = re.sub(r"[^\w.+=-]+", "-", self.name).lstrip(".-")
        # Two names must not map to one folder.
        return plain if plain == self.name else f"{plain}-{self.commit[:8]}"

    def _listed(self) -> Mapping[str, File]:
        return self.downloads.hub.files(self.repository, self.commit)


@dataclass(frozen=True)
class Listing:
    """The contents of a published sequence.

    Parameters
    ----------
    found : tuple of HubCheckpoint
    steps : mapping of str to int, optional
        By name, if the address or the titles of commits state them.
    kind : str
        What they count, if there are any.
    reason : str
        Where they come from, in words.
    left_out : mapping of HubCheckpoint to str
        Why.
    """

    found: tuple[HubCheckpoint, ...]
    steps: Mapping[str, int] | None = None
    kind: str = "step"
    reason: str = ""
    left_out: Mapping[HubCheckpoint, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HubRun(HubPlace):
    """A published sequence of checkpoints.

    Parameters
    ----------
    address : Address
    downloads : Downloads
    """

    address: Address
    downloads: Downloads = field(default_factory=lambda: Downloads(Hub()), compare=False, repr=False)

    def __str__(self) -> str:
        return str(self.address)

    @property
    def name(self) -> str:
        """A name for its output."""
        plain = re.sub(r"[^\w.-]+", "-", self.address.name.replace("{step}", "")).strip("-_.")
        return plain or self.address.owner

    def exists(self) -> bool:
        """Return True; existence is checked when the sequence is listed."""
        return True

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return True

    def resolve(self) -> Path:
        """Return its download folder; no code in it is ever run."""
        return self.downloads.place.resolve()

    def downloading_to(self, downloads: Downloads) -> "HubRun":
        """Return the same sequence with its copies at a different location."""
        return replace(self, downloads=downloads)

    def has_revisions(self) -> bool:
        """Whether a branch or tag of the repository is named after a step."""
        return any(character.isdigit() for name in self._hub.references(self.address.repository) for character in name)

    def listing(self) -> Listing:
        """Ask the Hub for the contents of the sequence.

        Raises
        ------
        NotFetched
            The Hub does not answer, or nothing has that name.
        """
        if self.address.commits:
            return self._commits()
        return self._repositories() if self.address.is_family else self._revisions()

    @cached_property
    def _hub(self) -> Hub:
        return self.downloads.hub

    def _checkpoint(self, name: str, repository: str, commit: str, revision: str | None) -> HubCheckpoint:
        shown = f"{SCHEME}{repository}" + ("" if revision is None else f"@{revision}")
        return HubCheckpoint(repository, commit, name, shown, self.downloads)

    def _revisions(self) -> Listing:
        repository = self.address.repository
        commits = self._hub.references(repository)
        steps = steps_in(self.address.revision, sorted(commits))
        if not steps:
            raise NotFetched(
                f"{self.address.quoted}: no branch or tag matches; existing ones:  {_some(sorted(commits))}"
            )
        found = tuple(self._checkpoint(name, repository, commits[name], name) for name in steps)
        return self._with_steps(found, steps)

    def _repositories(self) -> Listing:
        owner, pattern, revision = self.address.owner, self.address.name, self.address.revision
        there = self._hub.repositories(owner, literal(pattern))
        steps = steps_in(pattern, there)
        if not steps:
            raise NotFetched(f"{self.address.quoted}: no repository of {owner} matches; existing ones:  {_some(there)}")

        def one(name: str) -> HubCheckpoint:
            repository = f"{owner}/{name}"
            return self._checkpoint(name, repository, self._hub.commit(repository, revision), None)

        with ThreadPoolExecutor(_ASKING) as pool:
            return self._with_steps(tuple(pool.map(one, steps)), steps)

    def _with_steps(self, found: tuple[HubCheckpoint, ...], steps: Mapping[str, int | None]) -> Listing:
        numbers = {name: step for name, step in steps.items() if step is not None}
        ranked = sorted(numbers, key=numbers.__getitem__)
        for name, following in itertools.pairwise(ranked):
            if numbers[name] == numbers[following]:
                raise RegimeError(
                    f"{self.address.quoted}: {name} and {following} both have step "
                    f"{numbers[name]}; give a pattern that matches the checkpoints of one run only"
                )
        return Listing(found, numbers or None, "step", "the number at {step} in the address")

    def _commits(self) -> Listing:
        repository = self.address.repository
        commits = self._hub.commits(repository, self.address.revision)
        places = [
            self._checkpoint(f"{number:04d} {_plain(commit.title)}", repository, commit.sha, commit.sha[:12])
            for number, commit in enumerate(commits)
        ]
        _sizes(places)
        left_out = _without_new_weights(places)
        numbers = {place.name: number for number, place in enumerate(places) if place not in left_out}
        kept = tuple(place for place in places if place.name in numbers)
        steps = {place.name: int(found[1]) for place in kept if (found := _STEP_IN_TITLE.search(place.name))}
        if not steps:
            return Listing(kept, numbers, "ordinal", "the order of the commits", left_out)
        self._require_one_training(list(steps.values()))
        left_out |= {place: "no step in the title of the commit" for place in kept if place.name not in steps}
        chosen = tuple(place for place in kept if place.name in steps)
        return Listing(chosen, steps, "step", "the step in the titles of the commits", left_out)

    def _require_one_training(self, steps: list[int]) -> None:
        if steps != sorted(set(steps)):
            raise RegimeError(
                f"{self.address.quoted}: the steps in its commit titles do not rise, so the "
                "branch may hold several runs; give the last commit of the first run: "
                f"'{SCHEME}{self.address.repository}@COMMIT~commits'"
            )


def _plain(title: str) -> str:
    """Return the title of a commit, which is untrusted text, as one short line."""
    return "".join(sign if sign.isprintable() else " " for sign in title)[:60].strip()


def _sizes(found: Sequence[HubCheckpoint]) -> list[int]:
    """Return the bytes to fetch for many checkpoints; requests run concurrently."""
    with ThreadPoolExecutor(_ASKING) as pool:
        return list(pool.map(HubCheckpoint.size, found))


def sizes(source: "Source") -> list[int]:
    """Return the bytes to fetch for each checkpoint of a published sequence."""
    return _sizes([cast(HubCheckpoint, checkpoint.path) for checkpoint in source.checkpoints])


def is_outlined(source: "Source") -> bool:
    """Whether the program of a published sequence can be built without fetching weights."""
    return cast(HubCheckpoint, source.checkpoints[0].path).is_outlined


def most_at_once(each: Sequence[int]) -> int:
    """Return the most bytes that a conversion holds at a time, from the bytes of each checkpoint.

    It holds a checkpoint and its neighbours, and the middle and last checkpoints, where the noise
    floor is measured.
    """
    return sum(sorted(each)[-_AT_ONCE:])


def _without_new_weights(places: Sequence[HubCheckpoint]) -> dict[HubCheckpoint, str]:
    """Return the commits that are not checkpoints, with the reason."""
    left_out: dict[HubCheckpoint, str] = {}
    before: list[str] = []
    for place in places:
        weights = [file.digest for file in place.files if file.name != CONFIG]
        if not weights:
            left_out[place] = "no weights in it"
        elif weights == before:
            left_out[place] = "the same weights as the previous commit"
        before = weights or before
    return left_out


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "none"
