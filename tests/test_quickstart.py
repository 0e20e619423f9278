"""The way from an installation to a report, as it is written down for a new user."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = (ROOT / "examples/quickstart.md").read_text(encoding="utf-8")


def test_five_commands_lead_to_a_report(tmp_path):
    install, *others = re.findall(r"```sh\n(.*)\n```", QUICKSTART)
    assert len(others) == 4
    [extras] = re.findall(r'^pip install "regime-proto\[([\w,]+)\]"$', install)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    # The interpreter that runs the tests, and the command that is installed beside it.
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "NO_COLOR": "1"}
    said = ""
    for command in others:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        said += done.stdout
    assert re.search(r"^ρ +1\.\d\d", said, re.MULTILINE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Patterns may have settled earlier than weights" in page
    assert (tmp_path / "run/checkpoints.regime.h5").is_file()


def test_links_between_documents_lead_somewhere():
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/quickstart.md"):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            aim = (path.parent / name).resolve() if name else path
            assert aim.exists(), (path.name, target)
            if anchor and aim.suffix == ".md":
                assert anchor in anchors(aim.read_text(encoding="utf-8")), (path.name, target)


def anchors(text):
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
