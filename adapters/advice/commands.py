"""Commands that a user is told to run, made of code in one line and of arguments that a shell takes as they are."""

import re
import shlex
from pathlib import Path

# The files in a folder, the first argument, whose names are `like` a given one, the third.
_FILES = "sorted(Path(sys.argv[1]).iterdir()) if re.fullmatch(sys.argv[3], p.name)"
_SUFFIX = re.compile(r"(?:\.[A-Za-z_]\w*(?=\.(?:tar|gz|bz2|xz|lzma|z)$))?\.[A-Za-z_]\w*$")


def python(code: str, *arguments: object) -> str:
    """Return a call of Python with code that holds nothing that a shell would read between double quotes."""
    return " ".join([f'python -c "{code}"', *map(quoted, arguments)])


def quoted(argument: object) -> str:
    """Return an argument as a shell takes it."""
    return shlex.quote(str(argument))


def like(path: Path) -> str:
    """Return a regular expression for the names of a file's like: its suffix, else its name with other numbers."""
    suffix = _SUFFIX.search(path.name)
    if suffix is not None:
        return ".*" + re.escape(suffix[0])
    return r"\d+".join(re.escape(part) for part in re.split(r"\d+", path.name))


def for_each(
    path: Path, out: str, code: str, *, imports: str, before: str = "", only: str = "", more: tuple[str, ...] = ()
) -> str:
    """Return a command that evaluates `code` for every file ``p`` beside and like a given one.

    Parameters
    ----------
    path : Path
    out : str
        A folder, ``o`` in the code; it is made.
    code : str
    imports : str
        What is imported first, as behind ``import``.
    before : str
        Statements, each with ``; `` behind it.
    only : str
        A condition on ``p``.
    more : tuple of str
        Arguments from the fourth on.
    """
    start = f"import re, sys, {imports}; from pathlib import Path; o = Path(sys.argv[2]); o.mkdir(exist_ok=True); "
    condition = f" and {only}" if only else ""
    return python(f"{start}{before}[{code} for p in {_FILES}{condition}]", path.parent, out, like(path), *more)
