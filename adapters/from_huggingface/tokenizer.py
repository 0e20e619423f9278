"""Creates a probe from text with the tokenizer in a Hugging Face folder."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.adapters.from_huggingface import model as huggingface_model
from regime_proto.adapters.from_huggingface.config import config_of, json_of, refuse_code, transformers_apart
from regime_proto.program.probe import COUNTED, Probe, ProbeError
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

LONGEST = 128
"""Largest number of tokens of a sample; the rest is cut off, since every checkpoint is run on every token."""

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.json", "vocab.txt",
)  # fmt: skip
_SETTINGS = "tokenizer_config.json"
_INSTEAD = "pass token ids instead of text: --probe FILE"


def tokenize(path: Path, lines: Sequence[str], where: str) -> Probe:
    """Return the inputs of a checkpoint's model, one sample per line, padded to the longest.

    Parameters
    ----------
    path : Path
        A checkpoint; the tokenizer is in its folder or in the one above.
    lines : sequence of str
    where : str
        Name of the text in errors.

    Returns
    -------
    Probe
        Integer arrays, (sample, token).

    Raises
    ------
    RegimeError
        There is no tokenizer, or it requires its own code.
    ProbeError
        A line has no tokens.
    """
    config = huggingface_model.load_config(path, _INSTEAD)
    tokenizer = _tokenizer(path, config, where)
    with transformers_apart(Path(tokenizer.name_or_path), _INSTEAD):
        if tokenizer.pad_token is None:
            # Any token will do, since it is masked.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        encoded = tokenizer(
            list(lines), padding=True, truncation=True, max_length=_longest(config, tokenizer), return_tensors="np",
            return_attention_mask=True,
        )  # fmt: skip
    arrays = {name: np.asarray(array).astype(np.int64) for name, array in encoded.items()}
    counted = arrays["attention_mask"] == 1
    without = next((line for line, row in zip(lines, counted, strict=True) if not row.any()), None)
    if without is not None:
        raise ProbeError(f"{where}: the tokenizer finds no tokens in the line {without[:40]!r}; remove it")
    if getattr(config, "is_encoder_decoder", False):
        arrays["decoder_input_ids"] = _shifted_right(arrays["input_ids"], config, tokenizer)
    taken = inspect.signature(huggingface_model.class_of(path, config).forward).parameters
    inputs = {name: array for name, array in arrays.items() if name in taken}
    return Probe((*inputs.values(), counted), (*inputs, COUNTED), where)


def _tokenizer(path: Path, config: Any, where: str) -> Any:
    folders = [folder for folder in (path, path.parent) if any((folder / name).is_file() for name in _FILES)]
    if not folders:
        raise RegimeError(
            f"{where}: --probe-text needs a tokenizer, but there is none in {path} or next to it; save it there with "
            f"tokenizer.save_pretrained, or {_INSTEAD}"
        )
    folder = folders[0]
    refuse_code(folder / _SETTINGS, json_of(folder / _SETTINGS) or {}, _INSTEAD)
    # The config next to it may name its class.
    refuse_code(folder, config_of(folder) or {}, _INSTEAD)
    with transformers_apart(folder, _INSTEAD) as transformers:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), config=config, local_files_only=True, trust_remote_code=False
        )


def _longest(config: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that a model accepts, at most `LONGEST`."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    limits = [LONGEST, tokenizer.model_max_length]
    if isinstance(positions, int) and positions > 0:
        limits.append(positions)
    return int(min(limits))


def _shifted_right(ids: Array, config: Any, tokenizer: Any) -> Array:
    """Return the inputs of a decoder for the targets `ids`: a start token, then all but the last."""
    named = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id"))
    start = next((token for token in named if token is not None), tokenizer.pad_token_id)
    return np.concatenate([np.full_like(ids[:, :1], start), ids[:, :-1]], axis=1)
