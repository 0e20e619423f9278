"""Tensor names as the model spells them, without what wrappers put in."""

import re
from collections.abc import Mapping
from typing import TypeVar

from regime_proto.schema.errors import RegimeError

T = TypeVar("T")

# DataParallel, torch.compile, FSDP and activation checkpointing; they nest, also in the middle of a name.
_WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrap(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """Return `tensors` under names free of wrapper prefixes.

    ``module.`` alone can be a model's own attribute, so it is taken off only at the front and only if every
    name has it.

    Raises
    ------
    RegimeError
        Two names become one.
    """
    unwrapped: dict[str, T] = {}
    stripped = {name: _strip(name) for name in tensors}
    while stripped and all(name.startswith("module.") for name in stripped.values()):
        stripped = {original: _strip(name.removeprefix("module.")) for original, name in stripped.items()}
    for original, name in stripped.items():
        if name in unwrapped:
            raise RegimeError(f"{where}: two tensors are named {name!r} once wrapper prefixes are taken off")
        unwrapped[name] = tensors[original]
    return unwrapped


def _strip(name: str) -> str:
    return _WRAPPERS.sub("", name)
