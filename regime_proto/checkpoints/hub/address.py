"""Addresses of published sequences: ``hf://ORG/NAME@GLOB``, ``hf://ORG/relu-{step}B``, ``hf://ORG/NAME@main~commits``.

In a name or a revision, ``*``, ``?`` and ``[…]`` are wildcards as in file names; ``{step}`` matches
a number, the step.
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
# fsspec addresses begin with one of these instead of an owner.
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
        Of the repository; a pattern if each checkpoint has its own repository.
    revision : str
        A pattern for branches and tags, or, for repositories or commits, a single revision.
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
        """Whether each checkpoint has its own repository."""
        return is_pattern(self.name)

    @property
    def repository(self) -> str:
        """The repository's name on the Hub."""
        return f"{self.owner}/{self.name}"

    @property
    def pattern(self) -> str:
        """The pattern that checkpoint names must match."""
        return self.name if self.is_family else self.revision

    @property
    def quoted(self) -> str:
        """The address, quoted for the shell."""
        return shlex.quote(str(self))


def is_pattern(text: str) -> bool:
    """Whether a name is a pattern."""
    return any(sign in text for sign in ("*", "?", "[", _STEP))


def parse(text: str) -> Address | None:
    """Return the sequence that an address names; None for other addresses, such as a folder in a repository.

    Raises
    ------
    RegimeError
        It names no sequence in a known form.
    """
    found = _FORM.fullmatch(text)
    if found is None or found["owner"] in _OTHER_KINDS:
        return None
    revision = None if found["revision"] is None else unquote(found["revision"])
    address = Address(found["owner"], found["name"], revision or MAIN, found["commits"] is not None)
    _require_one_step(text, address)
    if address.is_family and (address.commits or is_pattern(address.revision)):
        raise RegimeError(
            f"{address.quoted}: a pattern in the repository together with ~commits or a pattern "
            "in the revision; give only one of the two"
        )
    if address.commits and is_pattern(address.revision):
        raise RegimeError(
            f"{address.quoted}: ~commits needs a single branch of a single repository; expected "
            f"{address.repository}@BRANCH"
        )
    if address.is_family or address.commits or is_pattern(address.revision):
        return address
    # A repository alone means all that it holds; a single revision is a folder.
    return Address(address.owner, address.name, "*") if revision is None else None


def _require_one_step(text: str, address: Address) -> None:
    """Raise an error if a part of an address has braces other than a single ``{step}``."""
    for part in (address.name, address.revision):
        if part.count(_STEP) > 1 or re.search(r"[{}]", part.replace(_STEP, "")):
            raise RegimeError(
                f"{shlex.quote(text)}: {part!r} is not a pattern; expected {_FORMS}, with {{step}} at most once"
            )


def steps_in(pattern: str, names: list[str]) -> dict[str, int | None]:
    """Return the names that match a pattern, with the number at ``{step}``; None if the pattern has no ``{step}``.

    A k, M or B after it multiplies: ``{step}k`` in ``20k`` is 20,000.
    """
    _, place, after = pattern.partition(_STEP)
    # A character that occurs in no name passes through the translation unchanged.
    expression = re.compile(fnmatch.translate(pattern.replace(_STEP, "\1")).replace("\1", r"(\d+)"))
    factor = _MULTIPLES.get(after[:1].lower(), 1) if place and not after[1:2].isalpha() else 1
    found = {name: match for name in names if (match := expression.match(name))}
    return {name: factor * int(match[1]) if place else None for name, match in found.items()}


def literal(pattern: str) -> str:
    """Return the longest literal part of a pattern."""
    return max(re.split(r"\{step\}|\[.*?\]|[*?]", pattern), key=len)
