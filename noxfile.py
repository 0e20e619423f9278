#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox[uv]"]
# ///
"""Checks that need environments of their own: other Pythons, the oldest libraries, a release; see `make help`."""

import json
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"

ROOT = Path(__file__).parent
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))
SUITE = ("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not slow and not libraries")
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github/workflows").glob("*.yml"))


@nox.session(python=["3.11", "3.12", "3.13"])
def core(session: nox.Session) -> None:
    """Test the core, the file adapters and the command line without a framework, with the pinned libraries."""
    session.install(*CONSTRAINTS, "--editable", ".[cpu,test]")
    session.run(*SUITE, *session.posargs)


@nox.session(python="3.11", venv_backend="uv", default=False)
def lowest(session: nox.Session) -> None:
    """Test the same with the oldest libraries that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "--editable", ".[cpu,flax,test]")
    session.run(*SUITE, *session.posargs)


@nox.session(python="3.11", default=False)
def release(session: nox.Session) -> None:
    """Build the distributions into dist/ and check them; an argument is the tag that they are published under."""
    dist = ROOT / "dist"
    for old in dist.glob("regime_proto-*"):
        old.unlink()
    session.install("build", "pytest", "pyyaml", "twine", "validate-pyproject[all]")
    session.run("validate-pyproject", "pyproject.toml")
    session.run("pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/release")
    # The wheel is built from the source distribution.
    session.run("python", "-m", "build", "--outdir", str(dist))
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    _require_complete(session, sdist)
    _require_version(session, wheel)


def _require_complete(session: nox.Session, sdist: Path) -> None:
    """Require that the source distribution has every tracked file."""
    tracked = session.run("git", "ls-files", external=True, silent=True).splitlines()
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(set(tracked) - packed - {".gitignore"}):
        session.error(f"{sdist.name}: lacks {', '.join(missing)}; add them to MANIFEST.in")


def _require_version(session: nox.Session, wheel: Path) -> None:
    """Require that the installed wheel, its file name and the tag have the same version."""
    version = wheel.name.split("-")[1]
    clean = Path(session.create_tmp()) / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    session.run(str(clean / "bin/pip"), "install", "--quiet", f"{wheel}[cpu]", external=True)
    said = session.run(str(clean / "bin/regime"), "--version", external=True, silent=True)
    if version not in said.split():
        session.error(f"regime --version: {said.strip()}; expected {version}, the version of {wheel.name}")
    if session.posargs and session.posargs[0] != f"v{version}":
        session.error(f"tag {session.posargs[0]}: expected v{version}, the version of {wheel.name}")


@nox.session(python="3.11", default=False)
def workflows(session: nox.Session) -> None:
    """Check the workflows of GitHub: their form, and what an attacker could do with them."""
    session.install("check-jsonschema", "zizmor")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    session.run("zizmor", "--offline", "--config", ".github/zizmor.yml", ".github")


@nox.session(python="3.11", default=False)
def citation(session: nox.Session) -> None:
    """Check CITATION.cff."""
    session.install("cffconvert>=2", "setuptools<81")
    session.run("cffconvert", "--validate")


@nox.session(python="3.11", default=False)
def recipe(session: nox.Session) -> None:
    """Render the conda recipe; nothing is built or fetched."""
    session.install("py-rattler-build>=0.60")
    session.run("python", "tests/support/render_recipe.py", "recipe/recipe.yaml")


@nox.session(python="3.11", default=False)
def review(session: nox.Session) -> None:
    """Review the repository; CONTRIBUTING.md says why some checks are ignored."""
    session.install("sp-repo-review[cli]")
    session.run("repo-review", ".")


@nox.session(python="3.11", default=False)
def licences(session: nox.Session) -> None:
    """Write THIRD_PARTY_LICENSES.md: what the pinned core, `cpu` and `report` install."""
    session.install(*CONSTRAINTS, ".[cpu,report]")
    installed = session.run("python", "-c", _NAMES, silent=True).split()
    session.install("pip-licenses")
    options = ("--format=json", "--from=mixed", "--with-system", "--packages", *installed)
    found = json.loads(session.run("pip-licenses", *options, silent=True))
    text = (
        '# Third-party licences\n\nWhat `pip install "regime-proto[cpu,report]"` installs with the pinned versions '
        "(constraints.txt).\nNone of it is part of the distribution. `make licences` writes this page.\n\n"
        "| distribution | version | licence |\n|---|---|---|\n"
    )
    for each in sorted(found, key=lambda each: each["Name"].lower()):
        # Some distributions put the whole text where the name belongs.
        text += f"| {each['Name']} | {each['Version']} | {each['License'].strip().splitlines()[0]} |\n"
    (ROOT / "THIRD_PARTY_LICENSES.md").write_text(text, encoding="utf-8")


_NAMES = """
from importlib.metadata import distributions
names = {found.metadata["Name"] for found in distributions()}
print(*sorted(names - {"pip", "setuptools", "regime-proto"}))
"""


if __name__ == "__main__":
    nox.main()
