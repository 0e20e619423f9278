"""Reads JSON files of Hugging Face folders, and imports transformers without network access, remote code or output."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from regime_proto.checkpoints.limits import LABELS, LAYERS
from regime_proto.checkpoints.opening import NotAFile, read_json
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import TooLarge

CONFIG = "config.json"

# Names of numbers that count parts of a model, and of numbers that are sizes.
_COUNTS = re.compile("layer|depth|block|stage|expert")
_SIZES = re.compile("size|dim|_id|length|width|norm|window|tokens|capacity|seed")

_INSTALL = 'pip install "regime-proto[huggingface]"'


def config_of(folder: Path) -> dict[str, Any] | None:
    """Return the config of a model; None if there is no config that states the type of the model."""
    config = None
    with contextlib.suppress(TooLarge, NotAFile):
        config = json_of(folder / CONFIG)
    return config if config is not None and isinstance(config.get("model_type"), str) else None


def json_of(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none.

    Raises
    ------
    TooLarge, NotAFile
        See `opening.read_json`.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def refuse_code(file: Path, content: dict[str, Any], instead: str) -> None:
    """Raise an error if a config requires code next to it, which is never run."""
    if "auto_map" in content:
        raise RegimeError(f"{file}: requires its own code (auto_map), which is not run; {instead}")


def hold_counts(file: Path, content: dict[str, Any]) -> None:
    """Raise an error if a config states an impossible number of layers or classes, each of which would be built.

    Raises
    ------
    TooLarge
        A number is above its limit.
    """
    for key, value in content.items():
        if isinstance(value, dict):
            hold_counts(file, value)
            continue
        numbers = [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]
        largest = max(numbers, default=0)
        if "label" in key:
            LABELS.hold(f"{file}: {key!r:.60}", largest, "classes")
        elif _COUNTS.search(key) and not _SIZES.search(key):
            LAYERS.hold(f"{file}: {key!r:.60}", largest, "layers or similar parts")


@contextmanager
def transformers_apart(where: Path, instead: str) -> Iterator[ModuleType]:
    """Yield transformers, which in this context neither accesses the network nor prints.

    Raises
    ------
    RegimeError
        It is not installed, or fails; its errors are attributed to the files at `where`.
    """
    try:
        import transformers
        from huggingface_hub import constants

        from regime_proto.adapters.from_onnx.file import silent
    except ImportError as error:
        missing = error.name if error.name in ("transformers", "torch") else "transformers"
        raise RegimeError(f"{where}: needs {missing}; {_INSTALL}; or {instead}") from None
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with silent("transformers"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    except RegimeError:
        raise
    except Exception as error:
        # transformers passes on any error of its files and libraries.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RegimeError(f"{where}: {reason}; {instead}") from None
    finally:
        constants.HF_HUB_OFFLINE = offline
