"""Addresses of published sequences: ``hf://ORG/NAME@GLOB``, ``hf://ORG/relu-{step}B``, ``hf://ORG/NAME@main~commits``.

In a name or a revision ``*``, ``?`` and ``[…]`` stand for what they stand for in file names, and ``{step}`` for a
number, which is the step.
"""

import fnmatch
import re
import shlex
from dataclasses import dataclass
from urllib.parse import unquote

from regime_proto.schema.errors import RegimeError

SCHEME = "hf://"
MAIN = "main"

_STEP = "{step}"
_COMMITS = "~commits"
_MULTIPLES = {"k": 10**3, "m": 10**6, "b": 10**9}
_FORM = re.compile(r"hf://(?P<owner>[\w.-]+)/(?P<name>[^/@~]+)(?:@(?P<revision>[^/]+?))?(?P<commits>~commits)?/?")
# What addresses of fsspec begin with in place of an owner.
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels", "models")
_FORMS = (
    "'hf://ORG/NAME@GLOB' (branches and tags), 'hf://ORG/name-{step}' (repositories) or 'hf://ORG/NAME@main~commits'"
)


@dataclass(frozen=True)
class Address:
    """A sequence of checkpoints on the Hub.

    Parameters
    ----------
    owner : str
        User or organization.
    name : str
        Of the repository; a pattern where every checkpoint has a repository of its own.
    revision : str
        A pattern of branches and tags, or one revision where repositories or commits are meant.
    commits : bool
        Whether the checkpoints are the commits that lead to `revision`.
    """

    owner: str
    name: str
    revision: str
    commits: bool = False

    def __str__(self) -> str:
        revision = "" if self.is_family and self.revision == MAIN else f"@{self.revision}"
        return f"{SCHEME}{self.owner}/{self.name}{revision}{_COMMITS * self.commits}"

    @property
    def is_family(self) -> bool:
        """Whether every checkpoint has a repository of its own."""
        return is_pattern(self.name)

    @property
    def repository(self) -> str:
        """The repository, as the Hub names it."""
        return f"{self.owner}/{self.name}"

    @property
    def pattern(self) -> str:
        """The pattern that the names of the checkpoints fit."""
        return self.name if self.is_family else self.revision

    @property
    def quoted(self) -> str:
        """The address as it is typed in a shell."""
        return shlex.quote(str(self))


def is_pattern(text: str) -> bool:
    """Whether a name stands for several."""
    return any(sign in text for sign in ("*", "?", "[", _STEP))


def parse(text: str) -> Address | None:
    """Return the sequence that an address names; None for one of another kind, such as a folder in a repository.

    Raises
    ------
    RegimeError
        It names none in a form that is known.
    """
    found = _FORM.fullmatch(text)
    if found is None or found["owner"] in _OTHER_KINDS:
        return None
    revision = None if found["revision"] is None else unquote(found["revision"])
    address = Address(found["owner"], found["name"], revision or MAIN, found["commits"] is not None)
    _require_one_step(text, address)
    if address.is_family and (address.commits or is_pattern(address.revision)):
        raise RegimeError(
            f"{address.quoted}: many repositories and many revisions of each are no one sequence; "
            "give a pattern in one of the two"
        )
    if address.commits and is_pattern(address.revision):
        raise RegimeError(f"{address.quoted}: commits of one branch are meant; expected {address.repository}@BRANCH")
    if address.is_family or address.commits or is_pattern(address.revision):
        return address
    # A repository alone: all that it holds; one revision alone is a folder.
    return Address(address.owner, address.name, "*") if revision is None else None


def _require_one_step(text: str, address: Address) -> None:
    """Raise an error if a part of an address has braces other than those of one ``{step}``."""
    for part in (address.name, address.revision):
        if part.count(_STEP) > 1 or re.search(r"[{}]", part.replace(_STEP, "")):
            raise RegimeError(f"{shlex.quote(text)}: {part!r} is no pattern; expected {_FORMS}, with {{step}} once")


def steps_in(pattern: str, names: list[str]) -> dict[str, int | None]:
    """Return the names that fit a pattern, with the number at ``{step}``; None where the pattern has no such place.

    A k, M or B behind it counts: ``{step}k`` of ``20k`` is 20,000.
    """
    _, place, after = pattern.partition(_STEP)
    # A sign that no name has goes through the translation as it is.
    expression = re.compile(fnmatch.translate(pattern.replace(_STEP, "\1")).replace("\1", r"(\d+)"))
    factor = _MULTIPLES.get(after[:1].lower(), 1) if place and not after[1:2].isalpha() else 1
    found = {name: match for name in names if (match := expression.match(name))}
    return {name: factor * int(match[1]) if place else None for name, match in found.items()}


def literal(pattern: str) -> str:
    """Return the longest part of a pattern that stands for itself."""
    return max(re.split(r"\{step\}|\[.*?\]|[*?]", pattern), key=len)
