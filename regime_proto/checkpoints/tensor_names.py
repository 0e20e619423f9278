"""Tensor names as in the model, without the prefixes added by wrappers."""

import re
from collections.abc import Mapping
from typing import TypeVar

from regime_proto.schema.errors import RegimeError

T = TypeVar("T")

# DataParallel, torch.compile, FSDP and activation checkpointing; they nest, and also occur within a name.
_WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrap(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """Return `tensors` under names without wrapper prefixes.

    ``module.`` alone may be the model's own attribute, so it is removed only at the start, and only
    if every name has it.

    Raises
    ------
    RegimeError
        Two names become equal.
    """
    unwrapped: dict[str, T] = {}
    stripped = {name: _strip(name) for name in tensors}
    while stripped and all(name.startswith("module.") for name in stripped.values()):
        stripped = {original: _strip(name.removeprefix("module.")) for original, name in stripped.items()}
    for original, name in stripped.items():
        if name in unwrapped:
            raise RegimeError(f"{where}: two tensors are named {name!r} after wrapper prefixes are removed")
        unwrapped[name] = tensors[original]
    return unwrapped


def _strip(name: str) -> str:
    return _WRAPPERS.sub("", name)
