"""Finds the model that ``--model`` names: a factory to import, or a file."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from regime_proto.plugins.registry import building_environment, expected_models, is_model
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import nearest

# They print the usage of a module, which is not the usage of regime.
_PARSERS = ("argparse", "optparse", "click.utils", "absl.app")


def load_model(reference: str, *, apart_from: Collection[Path]) -> object:
    """Import a module and call its factory, or return the path of a file that is a model.

    The module comes from the installed packages or the current directory, never from `apart_from`: the author of the
    checkpoints must not be able to run code here.

    Parameters
    ----------
    reference : str
        ``"package.module:factory"``; the factory takes no arguments and returns the model. Or the path of an
        ``.onnx`` or ``.pt2`` file, which runs no code and may therefore be anywhere.
    apart_from : collection of Path
        The directories of the checkpoints.

    Raises
    ------
    RegimeError
        The module or the factory cannot be found, or fails.
    """
    if is_model(Path(reference)):
        return Path(reference)
    name, colon, attribute = reference.partition(":")
    if not (colon and name and attribute):
        raise RegimeError(
            f"--model {reference!r}: expected MODULE:FACTORY, for example mypkg.net:make, or a .onnx or .pt2 file"
        )
    with _environment(building_environment()), _command_line_of(name) as refused:
        try:
            return _built(name, attribute, reference, apart_from)
        except SystemExit as error:
            said = "".join(f": {line.strip()}" for line in "".join(refused).splitlines()[-1:])
            raise RegimeError(
                f"--model {reference}: {name} ended the program (exit code {error.code}{said}); move code that reads "
                "the command line or exits under `if __name__ == '__main__':`"
            ) from None


def _built(name: str, attribute: str, reference: str, apart_from: Collection[Path]) -> object:
    module = _import(name, reference, apart_from)
    factory = getattr(module, attribute, None)
    if factory is None:
        raise RegimeError(f"--model {reference}: module {name} has no {attribute!r}{nearest(attribute, dir(module))}")
    if is_model(factory):
        return factory
    if not callable(factory):
        raise RegimeError(f"--model {reference}: expected a function, found a {type(factory).__name__}")
    try:
        model: object = factory()
    except Exception as error:
        raise RegimeError(f"--model {reference}: the factory raised {_described(error)}") from None
    if not is_model(model):
        raise RegimeError(
            f"--model {reference}: the factory returned a {type(model).__name__}; expected {expected_models()}"
        )
    return model


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables temporarily, except those that are already set."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _WithoutUsage:
    """A stream that keeps the output of command-line parsers, and passes on all other output at once."""

    def __init__(self, stream: Any, kept: list[str]) -> None:
        self._stream = stream
        self._kept = kept

    def write(self, text: str) -> int:
        if sys._getframe(1).f_globals.get("__name__") in _PARSERS:
            self._kept.append(text)
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _command_line_of(name: str) -> Iterator[list[str]]:
    """Give a user's module an empty command line; yield the messages of its command-line parser."""
    kept: list[str] = []
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv = [name]
    sys.stdout, sys.stderr = _WithoutUsage(sys.stdout, kept), _WithoutUsage(sys.stderr, kept)
    try:
        yield kept
        before[2].write("".join(kept))
    finally:
        sys.argv, sys.stdout, sys.stderr = before


def _import(name: str, reference: str, apart_from: Collection[Path]) -> ModuleType:
    here = Path.cwd()
    apart = [root.resolve() for root in apart_from]
    added = [str(here)] if here.resolve() not in apart else []
    before = list(sys.path)
    sys.path[:0] = added
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise RegimeError(
                f"--model {reference}: no module {error.name!r} in the installed packages or in {here}"
            ) from None
        raise RegimeError(
            f"--model {reference}: importing {name} raised {_described(error)}{_set_otherwise()}"
        ) from None
    except Exception as error:
        raise RegimeError(f"--model {reference}: importing {name} raised {_described(error)}") from None
    finally:
        sys.path[:] = before
    origin = getattr(module, "__file__", None)
    if origin and any(Path(origin).resolve().is_relative_to(root) for root in apart):
        raise RegimeError(
            f"--model {reference}: {origin} lies in the checkpoint directory, and no code is run from there; "
            "move it elsewhere"
        )
    return module


def _set_otherwise() -> str:
    """Return the environment variables that the user has set to values with which a model cannot be exported."""
    needed = building_environment().items()
    other = [(name, value) for name, value in needed if os.environ.get(name, value) != value]
    return "".join(f"; {name}={os.environ[name]} is set, a program needs {name}={value}" for name, value in other)


def _described(error: BaseException) -> str:
    """Return the error and the line of the user's code that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{where}"
