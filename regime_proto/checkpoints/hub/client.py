"""Lists the Hub and fetches files of a commit, through huggingface_hub; errors become one-line messages."""

import hashlib
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeVar

import regime_proto
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.nearest import did_you_mean

T = TypeVar("T")

_INSTALL = 'pip install "regime-proto[hub]"'
_LOGIN = "`hf auth login`"
# Seconds to wait before each retry of a failed call; the last failure is raised.
_WAITS = (1.0, 2.0, 4.0, 8.0)
# A download that receives no byte for so many seconds is resumed; an interruption also waits that
# long.
_TIMEOUT = 10.0
_CHUNK = 2**20
# The nearest name is searched among so many repositories.
_NAMES = 1000
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_RESET = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")


class NotFetched(RegimeError):
    """A fetch from the Hub failed; everything fetched before is kept."""


class Stopped(NotFetched):
    """A download was cancelled because nothing waits for it any more."""


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Parameters
    ----------
    name : str
        Its path in the repository.
    size : int
        Bytes.
    digest : str
        SHA-256 of a large file; otherwise git's SHA-1.
    """

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Commit:
    """A commit of a branch."""

    sha: str
    title: str


@dataclass
class Hub:
    """The Hub at its default address, or at the one in the environment variable HF_ENDPOINT.

    Parameters
    ----------
    stop : Event
        Set once nothing waits for downloads any more.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    _listings: dict[tuple[str, str], dict[str, File]] = field(default_factory=dict)

    @cached_property
    def _api(self) -> Any:
        return _module().HfApi(endpoint=self.endpoint, library_name="regime-proto", library_version=_version())

    @property
    def endpoint(self) -> str:
        """The address of the Hub."""
        return (os.environ.get("HF_ENDPOINT") or _module().constants.ENDPOINT).rstrip("/")

    def references(self, repository: str) -> dict[str, str]:
        """Return the commits of the branches and tags of a repository, by name."""
        with self._explained(repository):
            found = self._patiently(lambda: self._api.list_repo_refs(repository))
        named: dict[str, str] = {}
        for reference in (*found.branches, *found.tags):
            if named.setdefault(reference.name, reference.target_commit) != reference.target_commit:
                raise RegimeError(
                    f"hf://{repository}: a branch and a tag are both named {reference.name!r} but "
                    "differ; give a pattern that leaves them out"
                )
        return named

    def commits(self, repository: str, revision: str) -> list[Commit]:
        """Return the commits that lead to a revision, oldest first."""
        with self._explained(repository, revision):
            found = self._api.list_repo_commits(repository, revision=revision)
        return [Commit(commit.commit_id, commit.title) for commit in reversed(found)]

    def repositories(self, owner: str, search: str) -> list[str]:
        """Return the names of an owner's repositories that contain a text."""
        with self._explained(f"{owner}/{search}"):
            found = [model.id for model in self._api.list_models(author=owner, search=search or None)]
        return sorted(identity.partition("/")[2] for identity in found if identity.startswith(f"{owner}/"))

    def commit(self, repository: str, revision: str) -> str:
        """Return the commit of a revision."""
        with self._explained(repository, revision):
            return str(self._patiently(lambda: self._api.model_info(repository, revision=revision)).sha)

    def files(self, repository: str, commit: str) -> dict[str, File]:
        """Return the top-level files of a commit, by name; a commit never changes, so it is requested once."""
        if (repository, commit) not in self._listings:
            self._listings[repository, commit] = self._files(repository, commit)
        return self._listings[repository, commit]

    def _files(self, repository: str, commit: str) -> dict[str, File]:
        with self._explained(repository, commit):
            entries = list(self._api.list_repo_tree(repository, revision=commit))
        return {
            entry.path: File(entry.path, entry.size, entry.blob_id if entry.lfs is None else entry.lfs.sha256)
            for entry in entries
            if hasattr(entry, "blob_id")
        }

    def beginning(self, repository: str, commit: str, file: File, count: int) -> bytes:
        """Return the first bytes of a file."""
        found = bytearray()

        def take() -> bytes:
            found.clear()
            with self._answer(repository, commit, file, {"Range": f"bytes=0-{count - 1}"}) as answer:
                for chunk in answer.iter_bytes():
                    found.extend(chunk)
                    # The server may send the whole file.
                    if len(found) >= count:
                        break
            return bytes(found[:count])

        with self._explained(repository, commit):
            return self._patiently(take)

    def download(self, repository: str, commit: str, file: File, target: Path) -> None:
        """Write a file of a commit; a partial download next to `target` is resumed.

        Raises
        ------
        NotFetched
            The Hub prevents it; the part that arrived is kept.
        OSError
            The disk prevents it.
        Stopped
            See `Hub.stop`.
        """
        partial = target.with_name(f"{target.name}.part")
        with self._explained(repository, commit):
            for last in (False, True):
                self._patiently(lambda: self._append(repository, commit, file, partial), lambda: _size(partial))
                if _digest(partial, file) == file.digest:
                    partial.replace(target)
                    return
                # The kept or received bytes differ from the file in the commit.
                partial.unlink()
                if last:
                    raise NotFetched(
                        f"hf://{repository}@{commit[:12]}: {file.name} arrived twice with content "
                        "different from the Hub's listing; try again later"
                    )

    def _append(self, repository: str, commit: str, file: File, partial: Path) -> None:
        """Fetch the missing part of a file."""
        with partial.open("ab") as sink:
            if sink.tell() > file.size:
                sink.truncate(0)
            held = sink.tell()
            # Never request an empty range: servers refuse a range that begins at the end.
            if held == file.size:
                return
            with self._answer(repository, commit, file, {"Range": f"bytes={held}-"} if held else {}) as answer:
                if answer.status_code != 206:
                    sink.truncate(0)
                self._pour(answer, sink)
            if sink.tell() < file.size:
                raise _CutOff(f"{file.name} ended after {sink.tell()} of {file.size} bytes")

    def _pour(self, answer: Any, sink: IO[bytes]) -> None:
        for chunk in answer.iter_bytes():
            if self.stop.is_set():
                raise Stopped("interrupted")
            sink.write(chunk)

    @contextmanager
    def _answer(self, repository: str, commit: str, file: File, headers: Mapping[str, str]) -> Iterator[Any]:
        """Yield the streamed response to a request for a file."""
        hub = _module()
        url = hub.hf_hub_url(repository, file.name, revision=commit, endpoint=self.endpoint)
        sent = hub.utils.build_hf_headers(library_name="regime-proto", library_version=_version())
        # The bytes uncompressed, so that they can be counted.
        sent |= {"Accept-Encoding": "identity", **headers}
        with hub.get_session().stream("GET", url, headers=sent, timeout=_TIMEOUT) as answer:
            hub.utils.hf_raise_for_status(answer)
            yield answer

    def _patiently(self, call: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Return the result of a call; retry it if the failure may be temporary or the call made progress."""
        waits, before = iter(_WAITS), progress()
        while True:
            try:
                return call()
            except (_http_error(), _CutOff) as error:
                if progress() > before:
                    waits, before = iter(_WAITS), progress()
                told = _told_to_wait(error)
                wait = next(waits, None)
                if wait is None or not _may_pass(error):
                    raise
            if told is not None:
                _say_waiting(told)
            if self.stop.wait(wait if told is None else told):
                raise Stopped("interrupted")

    @contextmanager
    def _explained(self, repository: str, revision: str | None = None) -> Iterator[None]:
        """Turn errors of the client and the network into one-line messages."""
        hub = _module()
        try:
            with _own_log():
                yield
        except RegimeError:
            raise
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
            raise NotFetched(self._not_found(repository, revision, error)) from None
        except (_http_error(), _CutOff, hub.errors.OfflineModeIsEnabled, hub.errors.HFValidationError) as error:
            if _status(error) == 401 and not _is_refused_token(error):
                # The Hub does not reveal to anonymous users whether a repository exists.
                raise NotFetched(self._not_found(repository, revision, error)) from None
            raise NotFetched(f"hf://{repository}: {self._reason(error, repository)}") from None

    def _reason(self, error: Exception, repository: str) -> str:
        status = _status(error)
        if isinstance(error, _module().errors.OfflineModeIsEnabled):
            return "the Hub cannot be used while HF_HUB_OFFLINE is set; unset it"
        if isinstance(error, _module().errors.HFValidationError):
            return f"not the name of a repository; expected ORG/NAME ({' '.join(str(error).split())[:200]})"
        if status == 401:
            return f"the Hub rejects the token (401); renew it with {_LOGIN}, or correct HF_TOKEN"
        if status == 403:
            return self._restricted(status, repository)
        if status == 429:
            return (
                "the Hub still limits requests (429) after several waits; run the same "
                f"command later, or first {_LOGIN}"
            )
        if status is not None:
            return f"the Hub answers {status}, even after retries of what may be temporary; run the same command later"
        kind = type(error).__name__.lstrip("_")
        return f"the Hub at {self.endpoint} cannot be reached ({kind}); run the same command once it is reachable"

    def _restricted(self, status: int | None, repository: str) -> str:
        return (
            f"access is restricted ({status}); accept its terms at {self.endpoint}/{repository}, then {_LOGIN} or set "
            "HF_TOKEN"
        )

    def _not_found(self, repository: str, revision: str | None, error: Exception) -> str:
        errors = _module().errors
        if isinstance(error, errors.GatedRepoError):
            return f"hf://{repository}: {self._restricted(_status(error), repository)}"
        if isinstance(error, errors.RevisionNotFoundError):
            near = did_you_mean(str(revision), self._names(lambda: list(self.references(repository))))
            return f"hf://{repository}: no revision {revision!r}{near}"
        owner, _, name = repository.partition("/")
        near = did_you_mean(name, self._names(lambda: self._owned(owner)))
        near = near.replace("did you mean ", f"did you mean hf://{owner}/")
        return f"hf://{repository}: no such repository, or a private one, which needs {_LOGIN}{near}"

    def _owned(self, owner: str) -> list[str]:
        return [model.id.partition("/")[2] for model in islice(self._api.list_models(author=owner), _NAMES)]

    def _names(self, asked: Callable[[], list[str]]) -> list[str]:
        """Return candidates for the nearest name; none if the Hub does not list them."""
        try:
            return asked()
        except (RegimeError, _http_error(), OSError):
            return []


class _CutOff(Exception):
    """A response ended early."""


def _module() -> ModuleType:
    """Return huggingface_hub.

    Raises
    ------
    RegimeError
        It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise RegimeError(
            f"hf://: reading checkpoints from the Hugging Face Hub needs huggingface_hub: {_INSTALL}"
        ) from None
    module: ModuleType = huggingface_hub
    return module


def require_client(address: object) -> None:
    """Raise an error unless huggingface_hub is installed."""
    try:
        _module()
    except RegimeError:
        raise RegimeError(f"{address}: reading from the Hugging Face Hub needs huggingface_hub: {_INSTALL}") from None


def _version() -> str:
    return regime_proto.__version__


def _http_error() -> type[Exception]:
    """Return the base class of the client's transport errors; its library depends on the client's version."""
    base: type[Exception] = _module().errors.HTTPError
    return base


def _status(error: Exception) -> int | None:
    answer = getattr(error, "response", None)
    return None if answer is None else int(answer.status_code)


def _is_refused_token(error: Exception) -> bool:
    headers = error.response.headers  # type: ignore[attr-defined]
    return bool(headers.get("X-Error-Message", "") == "Invalid credentials in Authorization header")


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: a network error, or a busy server."""
    status = _status(error)
    return status is None or status in _PASSING


def _told_to_wait(error: Exception) -> float | None:
    """Return how many seconds the server asks to wait; None if it names no time."""
    if _status(error) not in (429, 503):
        return None
    headers = error.response.headers  # type: ignore[attr-defined]
    reset = _RESET.search(headers.get("RateLimit", ""))
    after = reset[1] if reset else headers.get("Retry-After", "")
    return float(after) if after.isdecimal() else None


def _say_waiting(seconds: float) -> None:
    warnings.warn(f"the Hub limits requests: waiting {seconds:.0f} s, as it asks", RegimeWarning, stacklevel=2)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, file: File) -> str:
    """Return the digest of a file, of the kind that the Hub lists for it."""
    # Git hashes a header and the content.
    git = hashlib.sha1(f"blob {_size(path)}\0".encode(), usedforsecurity=False)
    digest = git if len(file.digest) == git.digest_size * 2 else hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the free space at a folder that may not exist yet."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


_HERE = threading.local()


class _Ours(logging.Filter):
    """Hides the client's log during our calls; waits are reported in our own words."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(_HERE, "working", False):
            return True
        waiting = re.match(r"Rate limited\. Waiting ([\d.]+)s", record.getMessage())
        if waiting:
            _say_waiting(float(waiting[1]))
        return False


_OURS = _Ours()


@contextmanager
def _own_log() -> Iterator[None]:
    for name in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "huggingface_hub.hf_api"):
        # Adding the same filter again has no effect.
        logging.getLogger(name).addFilter(_OURS)
    before = getattr(_HERE, "working", False)
    _HERE.working = True
    try:
        yield
    finally:
        _HERE.working = before
