"""What to do with files of torch that hold more than tensors and plain data: commands that take the tensors out."""

import zipfile
from pathlib import Path

from regime_proto.adapters.advice.commands import for_each
from regime_proto.checkpoints.archives import open_zip
from regime_proto.schema.errors import RegimeError

# Tensors and numbers in nested dicts are kept, of modules and optimizers the states, of all else nothing.
_STATES = (
    "s = lambda x: s(x.state_dict()) if hasattr(x, 'state_dict') else "
    "{k: s(v) for k, v in x.items()} if isinstance(x, dict) else "
    "x if isinstance(x, (torch.Tensor, int, float)) else None; "
)
_LOADED = "torch.load(p, 'cpu', weights_only=False)"
_TRUSTED = "where the code of its classes is and if you trust these files (it runs what is in them)"


def is_script(path: Path) -> bool:
    """Whether a file is an archive of TorchScript."""
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, RegimeError):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def of_script(path: Path) -> str:
    """Say how to take the states out of TorchScript."""
    command, out = _resaving(path, "torch.jit.load(p, 'cpu').state_dict()")
    return f"{path}: TorchScript, which holds code; take its tensors out with {command}; then give {out}"


def of_module(path: Path, kind: str, *, weights: str | None = None) -> str:
    """Say how to take the states out of pickled modules, or of dicts of them.

    Parameters
    ----------
    path : Path
    kind : str
        The name of the class that is held.
    weights : str, optional
        The key of the states that are meant, where they are not found by themselves.
    """
    command, out = _resaving(path, f"s({_LOADED})", _STATES)
    given = out if weights is None else f"{out} with --weights {weights}, since there is only an average in it"
    return (
        f"{path}: holds a {kind}, not a dict of tensors; save model.state_dict(), or, {_TRUSTED}: {command}; "
        f"then give {given}"
    )


def of_objects(path: Path, reason: str) -> str:
    """Say how to take the states out of a file that takes code to read."""
    command, out = _resaving(path, f"s({_LOADED})", _STATES)
    return (
        f"{path}: damaged, or with objects that take running code ({reason}); save tensors and plain data only, or, "
        f"{_TRUSTED}: {command}; then give {out}"
    )


def _resaving(path: Path, state: str, before: str = "") -> tuple[str, str]:
    out = f"{path.parent}-states"
    return for_each(path, out, f"torch.save({state}, o / p.name)", imports="torch", before=before), out
