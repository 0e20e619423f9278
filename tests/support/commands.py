"""Runs the command line in this process, and says what an error looks like."""

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from regime_proto.cli.main import main

REGIME = Path(sys.executable).with_name("regime")


def regime(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="regime")


def tree(folder):
    """Return what changes whenever something is written, for everything below a folder."""
    paths = (folder, *folder.rglob("*"))
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path in paths for status in [path.lstat()]}


def assert_one_line(result, pattern):
    """An error that a user can mend: exit 1, one line, no traceback, nothing on stdout."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("warning:", "skipped"))]
    assert len(lines) == 1, result.stderr
    assert re.search(pattern, lines[0]), lines[0]
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.output
    assert "bug" not in lines[0]
