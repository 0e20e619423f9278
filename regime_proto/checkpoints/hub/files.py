"""Selects the files of a revision to fetch: weights, model config and tokenizer. Nothing else, and no code."""

import re
from collections.abc import Iterable, Sequence

CONFIG = "config.json"
HEADED = ".safetensors"
"""Formats whose header lists the contents."""

_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
# Formats in order of preference, with the name of a single file in each.
_FORMATS = ((".safetensors", "model.safetensors"), (".bin", "pytorch_model.bin"))
_OTHER = ("optim", "sched", "rng", "random", "scaler", "training_args", "adapter_", "consolidated", "ema")
_SHARD = re.compile(r"(.+)-\d+-of-\d+")


def weights_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files that hold the model's weights, with their index; nothing if there are none.

    Parameters
    ----------
    names : iterable of str
        The files of a revision, by their paths.
    """
    # Top-level files only: a folder may hold a different model or format.
    top = sorted(name for name in names if "/" not in name and not name.lower().startswith(_OTHER))
    for ending, usual in _FORMATS:
        found = _sharded(top, ending) or _single(top, ending, usual)
        if found:
            return found
    return ()


def _sharded(names: Sequence[str], ending: str) -> tuple[str, ...]:
    indices = [name for name in names if name.endswith(f"{ending}.index.json")]
    for index in indices:
        stem = index.removesuffix(f"{ending}.index.json")
        shards = [name for name in names if name.endswith(ending) and _stem_of_shard(name, ending) == stem]
        if shards:
            return (index, *shards)
    return ()


def _stem_of_shard(name: str, ending: str) -> str | None:
    found = _SHARD.fullmatch(name.removesuffix(ending))
    return None if found is None else found[1]


def _single(names: Sequence[str], ending: str, usual: str) -> tuple[str, ...]:
    if usual in names:
        return (usual,)
    files = [name for name in names if name.endswith(ending) and not any(word in name.lower() for word in _OTHER)]
    return (files[0],) if len(files) == 1 else ()


def text_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files of the tokenizer."""
    return tuple(sorted(name for name in names if name in _TOKENIZER))
