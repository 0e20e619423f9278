"""Builds the commands of advice from one line of Python code and arguments quoted for a shell."""

import re
import shlex
from pathlib import Path

# The files in a folder (first argument) whose names match a regular expression (third argument).
_FILES = "sorted(Path(sys.argv[1]).iterdir()) if re.fullmatch(sys.argv[3], p.name)"
_SUFFIX = re.compile(r"(?:\.[A-Za-z_]\w*(?=\.(?:tar|gz|bz2|xz|lzma|z)$))?\.[A-Za-z_]\w*$")


def python(code: str, *arguments: object) -> str:
    """Return a call of Python; the code must hold nothing that a shell would interpret in double quotes."""
    return " ".join([f'python -c "{code}"', *map(quoted, arguments)])


def quoted(argument: object) -> str:
    """Return an argument quoted for a shell."""
    return shlex.quote(str(argument))


def like(path: Path) -> str:
    """Return a regular expression for the names of similar files: the same suffix, or the same name except numbers."""
    suffix = _SUFFIX.search(path.name)
    if suffix is not None:
        return ".*" + re.escape(suffix[0])
    return r"\d+".join(re.escape(part) for part in re.split(r"\d+", path.name))


def for_each(
    path: Path, out: str, code: str, *, imports: str, before: str = "", only: str = "", more: tuple[str, ...] = ()
) -> str:
    """Return a command that evaluates `code` for a file and every similar file next to it.

    Parameters
    ----------
    path : Path
    out : str
        Folder for the results, ``o`` in the code; the command creates it.
    code : str
        An expression in which ``p`` is the path of the file.
    imports : str
        Names to import first, as after ``import``.
    before : str
        Statements, each followed by ``; ``.
    only : str
        Condition on ``p``.
    more : tuple of str
        Arguments of the command from the fourth on.
    """
    start = f"import re, sys, {imports}; from pathlib import Path; o = Path(sys.argv[2]); o.mkdir(exist_ok=True); "
    condition = f" and {only}" if only else ""
    return python(f"{start}{before}[{code} for p in {_FILES}{condition}]", path.parent, out, like(path), *more)
