"""Advice for torch files that hold more than tensors and plain data: commands that extract the tensors."""

import zipfile
from pathlib import Path

from regime_proto.adapters.advice.commands import for_each
from regime_proto.checkpoints.archives import open_zip
from regime_proto.schema.errors import RegimeError

# Keeps tensors and numbers in nested dicts, and the states of modules and optimizers; drops everything else.
_STATES = (
    "s = lambda x: s(x.state_dict()) if hasattr(x, 'state_dict') else "
    "{k: s(v) for k, v in x.items()} if isinstance(x, dict) else "
    "x if isinstance(x, (torch.Tensor, int, float)) else None; "
)
_LOADED = "torch.load(p, 'cpu', weights_only=False)"
_TRUSTED = "where the code of its classes is available and if you trust these files (this runs the code in them)"


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, RegimeError):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def of_script(path: Path) -> str:
    """Return the advice for TorchScript: a command that extracts the state."""
    command, out = _resaving(path, "torch.jit.load(p, 'cpu').state_dict()")
    return f"{path}: a TorchScript file, which holds code; extract its tensors with {command}; then use {out}"


def of_module(path: Path, kind: str, *, weights: str | None = None) -> str:
    """Return the advice for pickled modules, or dicts of them: a command that extracts the states.

    Parameters
    ----------
    path : Path
    kind : str
        Name of the class in the file.
    weights : str, optional
        Key of the weights, if they are not found automatically.
    """
    command, out = _resaving(path, f"s({_LOADED})", _STATES)
    given = out if weights is None else f"{out} with --weights {weights}, since the file holds only an average"
    return (
        f"{path}: holds a {kind}, not a dict of tensors; save model.state_dict(), or, {_TRUSTED}: {command}; then use "
        f"{given}"
    )


def of_objects(path: Path, reason: str) -> str:
    """Return the advice for a file that needs code to be read: a command that extracts the states."""
    command, out = _resaving(path, f"s({_LOADED})", _STATES)
    return (
        f"{path}: damaged, or holds objects that need code to be loaded ({reason}); save only tensors and plain data, "
        f"or, {_TRUSTED}: {command}; then use {out}"
    )


def _resaving(path: Path, state: str, before: str = "") -> tuple[str, str]:
    out = f"{path.parent}-states"
    return for_each(path, out, f"torch.save({state}, o / p.name)", imports="torch", before=before), out
