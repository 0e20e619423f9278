"""Finds the model that ``--model`` names: a factory to import, or a file."""

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from regime_proto.registry import building_environment, expected_models, is_model
from regime_proto.schema.errors import RegimeError


def load_model(reference: str, *, apart_from: Path) -> object:
    """Import a module and call its factory, or return the path of a file that is a model.

    The module comes from the installed packages or the current directory, never from `apart_from`: whoever
    wrote the checkpoints must not get code run.

    Parameters
    ----------
    reference : str
        ``"package.module:factory"``; the factory takes no arguments and returns the model. Or the path of an
        ``.onnx`` or ``.pt2`` file, which runs no code and may therefore lie anywhere.
    apart_from : Path
        The directory of the checkpoints.

    Raises
    ------
    RegimeError
        Module or factory cannot be found, or fail.
    """
    if is_model(Path(reference)):
        return Path(reference)
    name, colon, attribute = reference.partition(":")
    if not (colon and name and attribute):
        raise RegimeError(
            f"--model {reference!r}: expected MODULE:FACTORY, for example mypkg.net:make, or a .onnx or .pt2 file"
        )
    with _environment(building_environment()):
        return _built(name, attribute, reference, apart_from)


def _built(name: str, attribute: str, reference: str, apart_from: Path) -> object:
    module = _import(name, reference, apart_from)
    factory = getattr(module, attribute, None)
    if factory is None:
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise RegimeError(f"--model {reference}: module {name} has no {attribute!r}{hint}")
    if is_model(factory):
        return factory
    if not callable(factory):
        raise RegimeError(f"--model {reference}: expected a function, found a {type(factory).__name__}")
    try:
        model: object = factory()
    except (Exception, SystemExit) as error:
        raise RegimeError(f"--model {reference}: the factory raised {_described(error)}") from None
    if not is_model(model):
        raise RegimeError(
            f"--model {reference}: the factory returned a {type(model).__name__}; expected {expected_models()}"
        )
    return model


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while, but those that are set already."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _import(name: str, reference: str, apart_from: Path) -> ModuleType:
    here = Path.cwd()
    added = [str(here)] if here.resolve() != apart_from.resolve() else []
    before = list(sys.path)
    sys.path[:0] = added
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise RegimeError(
                f"--model {reference}: no module {error.name!r} among the installed packages or in {here}"
            ) from None
        raise RegimeError(
            f"--model {reference}: importing {name} raised {_described(error)}{_set_otherwise()}"
        ) from None
    except (Exception, SystemExit) as error:
        raise RegimeError(f"--model {reference}: importing {name} raised {_described(error)}") from None
    finally:
        sys.path[:] = before
    origin = getattr(module, "__file__", None)
    if origin and Path(origin).resolve().is_relative_to(apart_from.resolve()):
        raise RegimeError(
            f"--model {reference}: {origin} lies in the checkpoint directory, and no code is run from there; "
            "move it elsewhere"
        )
    return module


def _set_otherwise() -> str:
    """Return which environment variables the user has set to something else than exporting a model needs."""
    needed = building_environment().items()
    other = [(name, value) for name, value in needed if os.environ.get(name, value) != value]
    return "".join(f"; {name}={os.environ[name]} is set, a program needs {name}={value}" for name, value in other)


def _described(error: BaseException) -> str:
    """Return the error and the user's line that it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{where}"
