"""Builds models of transformers from their config.json, and exports them under the names in their checkpoints."""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from regime_proto.adapters import from_folder, torch_export
from regime_proto.adapters.huggingface_config import CONFIG, config_of, refuse_code, transformers_apart
from regime_proto.schema.errors import RegimeError
from torch.utils._python_dispatch import TorchDispatchMode

from regime_proto.engine.graph.program import Program, Tensor
from regime_proto.payload import state_of
from regime_proto.probe import Probe

# Buffers that older versions saved, and no version needs.
_ONCE_SAVED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
_INSTEAD = "say how to build the model: --model MODULE:FACTORY"


def program_of(path: Path, probe: Probe) -> Program:
    """Return the forward graph of the model that a folder's config.json names.

    Raises
    ------
    RegimeError
        transformers has no such model, or keeps its weights in another layout than the checkpoint; or the model
        does not run on the probe.
    """
    model = build(path)
    held = state_of(from_folder.read(path), str(path)).tensors
    aliases = saved_names(model)
    names = _loaded_names(model, held, path)
    for name, loaded in names.items():
        aliases.setdefault(loaded, set()).add(name)
    unused = [Tensor(name, held[name].shape, trainable=False) for name in _unused_names(model, held, names)]
    return _exported(model, probe, aliases, unused)


def export(model: Any, probe: Probe) -> Program:
    """Export a model; the names that `save_pretrained` gives its weights are known too."""
    return _exported(model, probe, saved_names(model))


def _exported(
    model: Any, probe: Probe, aliases: Mapping[str, Collection[str]], unused: Collection[Tensor] = ()
) -> Program:
    import transformers

    framework = {"transformers": transformers.__version__}
    with _caches_off(model.config):
        return torch_export.export(model, probe, aliases=aliases, unused=unused, framework=framework)


def build(path: Path) -> Any:
    """Return the model that a folder's config.json names, in evaluation mode, with weights of no meaning."""
    config = load_config(path, _INSTEAD)
    made = class_of(path, config)
    with transformers_apart(path / CONFIG, _INSTEAD), _WithoutRandom():
        # With eager attention the graph is the same whatever the machine; float32 is what it is run in.
        return made._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def load_config(path: Path, instead: str) -> Any:
    """Return the config in a folder.

    Raises
    ------
    RegimeError
        It asks for code of its own, or transformers knows no such model; `instead` says what to do then.
    """
    file = path / CONFIG
    content = config_of(path)
    if content is None:
        raise RegimeError(f"{file}: no config with a model_type; {instead}")
    refuse_code(file, content, instead)
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
        transformers has no such class for that config.
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
            raise RegimeError(f"{file}: {name} is no model of type {config.model_type!r}; {_INSTEAD}")
        return found


class _WithoutRandom(TorchDispatchMode):  # type: ignore[misc]
    """Fills with zeros what would be drawn at random: it takes no time, and leaves the random numbers alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.normal_, torch.ops.aten.uniform_):
            return args[0].zero_()
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _caches_off(config: Any) -> Iterator[None]:
    """Keep a model from returning the keys and values that generating text would use again."""
    below = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    configs = [one for one in (config, *below) if getattr(one, "use_cache", None)]
    for one in configs:
        one.use_cache = False
    try:
        yield
    finally:
        for one in configs:
            one.use_cache = True


def saved_names(model: Any) -> dict[str, set[str]]:
    """Return, by the name of a tensor in the model, the other name that `save_pretrained` gives it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    loading = get_model_conversion_mapping(model, add_legacy=False)
    saving = [one.reverse_transform() for one in loading[::-1] if not isinstance(one, PrefixChange)]
    names = _renamed(model.state_dict(), saving, reverse=True)
    return {name: {saved} for name, (saved, _) in names.items() if saved != name}


def _loaded_names(model: Any, held: Collection[str], path: Path) -> dict[str, str]:
    """Return the model's names of the tensors in a checkpoint, for those that it names otherwise."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    known = model.state_dict()
    rules = {"base_model_prefix": model.base_model_prefix, "meta_state_dict": known}
    names = _renamed(held, get_model_conversion_mapping(model), **rules)
    other = next((name for name, (_, operation) in names.items() if operation and name not in known), None)
    if other is not None:
        raise RegimeError(
            f"{path}: {other!r} lies in another layout than {type(model).__name__} has it, which is not supported; "
            "save torch.save(model.state_dict(), …) instead"
        )
    return {name: loaded for name, (loaded, _) in names.items() if loaded in known and name not in known}


def _renamed(names: Collection[str], conversions: list[Any], **rules: Any) -> dict[str, tuple[str, str | None]]:
    """Return what transformers makes of names, and the pattern of the operation that changes the numbers, if any."""
    from transformers.core_model_loading import WeightConverter, rename_source_key

    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    renamings = [one for one in conversions if not isinstance(one, WeightConverter)]
    return {name: rename_source_key(name, renamings, converters, **rules) for name in sorted(names)}


def _unused_names(model: Any, held: Collection[str], names: Mapping[str, str]) -> list[str]:
    """Return the tensors in a checkpoint of which transformers knows that its model has no use for them."""
    patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), *_ONCE_SAVED]
    unknown = set(held) - set(names) - set(model.state_dict())
    return sorted(name for name in unknown if any(re.search(pattern, name) for pattern in patterns))
