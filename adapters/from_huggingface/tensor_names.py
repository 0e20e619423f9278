"""Maps names of weights in transformers checkpoints to the names in its models, where they differ."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from regime_proto.schema.errors import RegimeError

# Buffers that older versions saved, but no version needs.
_ONCE_SAVED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")


def saved_names(model: Any) -> dict[str, set[str]]:
    """Return the different names that `save_pretrained` gives to tensors, by their name in the model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    loading = get_model_conversion_mapping(model, add_legacy=False)
    saving = [one.reverse_transform() for one in loading[::-1] if not isinstance(one, PrefixChange)]
    names = _renamed(model.state_dict(), saving, reverse=True)
    return {name: {saved} for name, (saved, operation) in names.items() if saved != name and not operation}


def loaded_names(model: Any, held: Collection[str], path: Path) -> dict[str, str]:
    """Return the model's names of the tensors in a checkpoint, where they differ.

    Raises
    ------
    RegimeError
        The layout of a tensor differs from that in the model.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    known = model.state_dict()
    rules = {"base_model_prefix": model.base_model_prefix, "meta_state_dict": known}
    names = _renamed(held, get_model_conversion_mapping(model), **rules)
    other = next((name for name, (_, operation) in names.items() if operation and name not in known), None)
    if other is not None:
        raise RegimeError(
            f"{path}: {other!r} has a different layout from the one in {type(model).__name__}, which is not "
            "supported; save torch.save(model.state_dict(), …) instead"
        )
    return {name: loaded for name, (loaded, _) in names.items() if loaded in known and name not in known}


def _renamed(names: Collection[str], conversions: list[Any], **rules: Any) -> dict[str, tuple[str, str | None]]:
    """Return the names to which transformers converts names, and the pattern of an operation on the numbers, if any."""
    from transformers.core_model_loading import WeightConverter, rename_source_key

    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    renamings = [one for one in conversions if not isinstance(one, WeightConverter)]
    return {name: rename_source_key(name, renamings, converters, **rules) for name in sorted(names)}


def unused_names(model: Any, held: Collection[str], names: Mapping[str, str]) -> list[str]:
    """Return the tensors in a checkpoint that the model does not use, according to transformers."""
    patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), *_ONCE_SAVED]
    unknown = set(held) - set(names) - set(model.state_dict())
    return sorted(name for name in unknown if any(re.search(pattern, name) for pattern in patterns))
