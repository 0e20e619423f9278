"""Opens ``.pt2`` files, the programs of ``torch.export``, after checking that nothing in them can run code.

torch itself unpickles some of their parts without restrictions, and evaluates symbolic sizes as Python code.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from regime_proto.adapters.from_torch import pickle_scan
from regime_proto.checkpoints.archives import hold_unpacked, open_zip, read_entry
from regime_proto.checkpoints.limits import DESCRIPTION_BYTES, hold_inflation
from regime_proto.checkpoints.opening import parse_json
from regime_proto.program.probe import Probe, ProbeError
from regime_proto.program.probe_advice import declared, described
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import cannot_open

_AGAIN = (
    "export it again, for the probe's shape: torch.export.save(torch.export.export(model.eval(), (x,)), 'model.pt2')"
)
# Largest size of an element in bytes.
_WIDEST = 16
_TRAINS = {torch.ops.aten.dropout.default: 2, torch.ops.aten.batch_norm.default: 5}


def load(path: Path) -> torch.export.ExportedProgram:
    """Read an exported program.

    Raises
    ------
    RegimeError
        It is damaged, was exported in training mode or with dynamic sizes, or names something that could run code.
    """
    try:
        with open_zip(path) as archive:
            hold_unpacked(archive, path, path.stat().st_size)
            _refuse_code(archive, path)
        program = torch.export.load(path)
    except RegimeError:
        raise
    except OSError as error:
        raise RegimeError(cannot_open(path, error)) from None
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RegimeError(f"{path}: damaged, or not a program of torch.export ({reason}); {_AGAIN}") from None
    for node in program.graph.nodes:
        at = _TRAINS.get(node.target)
        if at is not None and len(node.args) > at and node.args[at]:
            raise RegimeError(f"{path}: exported in training mode ({node.name}); {_AGAIN}")
    return program


def bind(program: torch.export.ExportedProgram, probe: Probe, where: str) -> dict[str, Any]:
    """Return the arrays of a probe by input; they must match the inputs that the program was exported with.

    Raises
    ------
    ProbeError
        The name, shape or dtype of an input differs.
    """
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    arrays = probe.bind(names)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            expected = node.meta["val"]
            shown = f"{str(expected.dtype)[6:]}{list(expected.shape)}"
            found = arrays.get(node.name)
            if found is None:
                raise ProbeError(f"{probe.where}: no array for input {node.name!r}; {where} expects {shown}")
            if tuple(expected.shape) != found.shape or str(expected.dtype)[6:] != found.dtype.name:
                advice = declared(node.name, found, str(expected.dtype)[6:], tuple(expected.shape))
                raise ProbeError(
                    f"{probe.where}: {node.name} is {described(found)}, but {where} was exported for {shown}; "
                    f"{f'{advice}, or ' if advice else ''}export it with the probe itself"
                )
    return arrays


def _refuse_code(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise an error if torch would unpickle or evaluate anything in the archive that could run code."""
    found = next(_hazards(archive, path), None)
    if found is not None:
        raise RegimeError(f"{path}: refused: {found}, which could run code; {_AGAIN}")


def _hazards(archive: zipfile.ZipFile, path: Path) -> Iterator[str]:
    for name in archive.namelist():
        part = name.partition("/")[2]
        if part.startswith("data/aotinductor/"):
            yield "it holds compiled code"
        elif part.startswith(("data/weights/", "data/constants/")) and part.endswith(".pt"):
            yield f"it holds a pickle ({part})"
        elif part.endswith("_config.json"):
            parts = _parsed(archive, name)["config"]
            yield from _hazards_of_parts(parts)
            _hold_tensors(parts, path)
        elif part.startswith("models/"):
            yield from _hazards_of_graph(_parsed(archive, name))
        elif part.startswith("data/sample_inputs/"):
            try:
                content = read_entry(archive, name)
                pickle_scan.check_content(content, f"{archive.filename}: {part}")
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:
                yield "its sample inputs are not only tensors"


def _hazards_of_parts(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, part in parts.items():
        if part["use_pickle"] or not str(part["path_name"]).startswith(("weight_", "tensor_")):
            yield f"{name!r} is stored as a pickle"


def _hold_tensors(parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Raise `TooLarge` if tensors view their numbers so often that copies would not fit into memory."""
    shapes = ([int(size["as_int"]) for size in part["tensor_meta"]["sizes"]] for part in parts.values())
    hold_inflation(f"{path}: its tensors", _WIDEST * sum(map(math.prod, shapes)), path.stat().st_size)


def _hazards_of_graph(model: Mapping[str, Any]) -> Iterator[str]:
    for name, value in _entries(model):
        if name == "expr_str" and value:
            yield "it was exported with dynamic sizes, which are stored as Python expressions"
        elif name == "guards_code" and value:
            yield "it carries guards in Python code"
        elif name == "target" and not str(value).startswith(
            ("torch.ops.aten.", "torch.ops.higher_order.", "_operator.")
        ):
            yield f"its graph calls {value!r}"
        elif name == "target" and "from_file" in str(value):
            yield "its graph opens a file"


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys and values in nested dicts and lists."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _parsed(archive: zipfile.ZipFile, name: str) -> Any:
    where = f"{archive.filename}: {name}"
    DESCRIPTION_BYTES.hold(where, archive.getinfo(name).file_size, "bytes of JSON")
    return parse_json(read_entry(archive, name), where)
