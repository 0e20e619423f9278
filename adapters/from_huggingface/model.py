"""Builds transformers models from their config.json, and exports them with the tensor names of their checkpoints."""

import contextlib
import mmap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from regime_proto.adapters import from_folder
from regime_proto.adapters.from_huggingface.config import (
    CONFIG,
    config_of,
    hold_counts,
    refuse_code,
    transformers_apart,
)
from regime_proto.adapters.from_huggingface.tensor_names import loaded_names, saved_names, unused_names
from regime_proto.adapters.from_torch import exporter
from regime_proto.adapters.from_torch.wrappers import bare
from regime_proto.checkpoints.limits import ALWAYS_ALLOWED_BYTES
from regime_proto.checkpoints.payload import state_of
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program, Tensor
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import TooLarge
from regime_proto.schema.types import Array

_INSTEAD = "pass a function that builds the model: --model MODULE:FACTORY"
# A model may have parts that its checkpoint does not hold, and tables that it computes itself.
_MOST_TIMES, _ALWAYS_TENSORS = 20, 10_000
_SMALL_BYTES = 2**20
_MAKERS = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_strided", "zeros", "ones", "full", "arange", "linspace", "eye", "rand", "randn")
}


def program_of(path: Path, probe: Probe) -> Program:
    """Return the forward graph of the model that a folder's config.json names.

    Raises
    ------
    RegimeError
        transformers has no such model, or stores its weights in a different layout from the checkpoint; or the model
        does not run on the probe.
    """
    held = state_of(from_folder.read(path), str(path)).tensors
    model = build(path, held)
    aliases = saved_names(model)
    names = loaded_names(model, held, path)
    for name, loaded in names.items():
        aliases.setdefault(loaded, set()).add(name)
    unused = [Tensor(name, held[name].shape, trainable=False) for name in unused_names(model, held, names)]
    return _exported(model, probe, aliases, unused).program


def export(model: Any, probe: Probe) -> Program:
    """Export a model; the program also knows the names that `save_pretrained` gives to its weights."""
    return export_both(model, probe).program


def export_both(model: Any, probe: Probe) -> exporter.Exported:
    """Export a model in both formats, as `exporter.export_both` does."""
    model = bare(model)
    return _exported(model, probe, saved_names(model))


def _exported(
    model: Any, probe: Probe, aliases: Mapping[str, Collection[str]], unused: Collection[Tensor] = ()
) -> exporter.Exported:
    import transformers

    framework = {"transformers": transformers.__version__}
    with _caches_off(model.config):
        return exporter.export_both(model, probe, aliases=aliases, unused=unused, framework=framework)


def build(path: Path, held: Mapping[str, Array]) -> Any:
    """Return the model that a folder's config.json names, in evaluation mode, with meaningless weights.

    Raises
    ------
    RegimeError
        See `load_config`; or the model is far larger than the tensors of its checkpoint, `held`.
    """
    config = load_config(path, _INSTEAD)
    made = class_of(path, config)
    with transformers_apart(path / CONFIG, _INSTEAD), _Building(path / CONFIG, held):
        # With eager attention the graph is the same on every machine; it is run in float32.
        return made._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def load_config(path: Path, instead: str) -> Any:
    """Return the config in a folder.

    Raises
    ------
    RegimeError
        It requires its own code, or transformers has no such model; `instead` is the advice in the message.
    """
    file = path / CONFIG
    content = config_of(path)
    if content is None:
        raise RegimeError(f"{file}: holds no config with a model_type; {instead}")
    refuse_code(file, content, instead)
    hold_counts(file, content)
    with transformers_apart(file, instead) as transformers:
        kind = content["model_type"]
        if kind not in transformers.CONFIG_MAPPING:
            raise RegimeError(f"{file}: transformers {transformers.__version__} has no model_type {kind!r}; {instead}")
        return transformers.CONFIG_MAPPING[kind].from_dict(content)


def class_of(path: Path, config: Any) -> Any:
    """Return the class of the model in a folder, as its config names it.

    Raises
    ------
    RegimeError
        transformers has no such class for this config.
    """
    file = path / CONFIG
    with transformers_apart(file, _INSTEAD) as transformers:
        name = next(iter(config.architectures or ()), None)
        if name is None:
            return transformers.MODEL_MAPPING[type(config)]
        found = getattr(transformers, name, None)
        if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
            raise RegimeError(f"{file}: transformers {transformers.__version__} has no model {name!r}; {_INSTEAD}")
        if not isinstance(config, getattr(found, "config_class", None) or ()):
            raise RegimeError(f"{file}: {name} is not a model of type {config.model_type!r}; {_INSTEAD}")
        return found


class _Building(TorchDispatchMode):  # type: ignore[misc]
    """Limits the resources for building a model.

    Random initial values are replaced with zeros, which takes no time and leaves random states unchanged. Large tensors
    use no memory, so that a model may exceed it. A config may describe a model larger than any machine, so no more is
    created than its checkpoint can hold.
    """

    def __init__(self, file: Path, held: Mapping[str, Array]) -> None:
        super().__init__()
        self._file = file
        self._elements = _MOST_TIMES * sum(array.size for array in held.values()) + ALWAYS_ALLOWED_BYTES
        self._tensors = _MOST_TIMES * len(held) + _ALWAYS_TENSORS
        self._untouched: set[int] = set()

    def _count(self, func: Any, args: Any, kwargs: Any) -> None:
        shaped = func(*args, **{**kwargs, "device": "meta"})
        self._elements -= shaped.numel()
        self._tensors -= 1
        if self._elements < 0 or self._tensors < 0:
            raise TooLarge(
                f"{self._file}: describes a far larger model than the checkpoint next to it holds; {_INSTEAD}"
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _MAKERS:
            self._count(func, args, kwargs or {})
        if func.overloadpacket in (torch.ops.aten.normal_, torch.ops.aten.uniform_):
            return args[0] if args[0].data_ptr() in self._untouched else args[0].zero_()
        made = func(*args, **(kwargs or {}))
        return self._mapped(made) if func.overloadpacket is torch.ops.aten.empty else made

    def _mapped(self, made: Any) -> Any:
        """Replace a new tensor with one of zeros that uses no memory until it is written."""
        if made.device.type != "cpu" or made.nbytes < _SMALL_BYTES or not made.is_contiguous():
            return made
        # Shared memory would be allocated on reading.
        private = mmap.mmap(-1, made.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        zeros = torch.frombuffer(private, dtype=made.dtype).view(made.shape)
        self._untouched.add(zeros.data_ptr())
        return zeros


@contextlib.contextmanager
def _caches_off(config: Any) -> Iterator[None]:
    """Prevent a model from returning the key-value cache for text generation."""
    below = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    configs = [one for one in (config, *below) if getattr(one, "use_cache", None)]
    for one in configs:
        one.use_cache = False
    try:
        yield
    finally:
        for one in configs:
            one.use_cache = True
