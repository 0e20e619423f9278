"""Recognises checkpoints that cannot be read directly, and returns the command that converts them, in one line.

DeepSpeed and Megatron split checkpoints over processes in their own formats; an adapter (LoRA) lacks its base model;
TorchScript and pickled modules and estimators hold code; Keras may split weights over files.
"""

import bz2
import contextlib
import lzma
import re
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regime_proto.adapters.advice.commands import for_each, python
from regime_proto.adapters.advice.foreign import advice as advice_on_foreign
from regime_proto.adapters.advice.foreign import of_saved_model
from regime_proto.adapters.advice.torch_files import is_script, of_script
from regime_proto.checkpoints.opening import read_json, read_start
from regime_proto.schema.errors import RegimeError

_DEEPSPEED = "*_model_states.pt"
_DEEPSPEED_SCRIPT = "zero_to_fp32.py"
_MEGATRON = ("latest_checkpointed_iteration.txt", "mp_rank_*/model_optim_rng.pt", "iter_*/mp_rank_*/model_optim_rng.pt")
_MEGATRON_BACKEND = b"sharded_backend"
_ADAPTER_CONFIG = "adapter_config.json"
_TEXTS = (".json", ".txt", ".model", ".jinja")
_KERAS_INDEX = ".weights.json"
_PICKLED = re.compile(r"\.(pkl|pickle|joblib)(\.(z|gz|bz2|xz|lzma))?$")
# More memory than the strongest preset needs.
_LZMA_BYTES = 2**27


def _unpack_lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_LZMA_BYTES)


# Compressors of joblib, by their first bytes.
_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x78": lambda: zlib.decompressobj(47), b"\x1f\x8b": lambda: zlib.decompressobj(47), b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": _unpack_lzma, b"\x5d\x00": _unpack_lzma,
}  # fmt: skip
_NETWORK, _NAMED_WITHIN = b"sklearn.neural_network", 2**20
# Classes of peft by the task of an adapter.
_PEFT_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
}


def advice(path: Path) -> str | None:
    """Return what a folder or file is, and the command that converts it and similar ones; None if unknown."""
    if path.is_dir():
        return _of_deepspeed(path) or _of_megatron(path) or _of_adapter(path) or of_saved_model(path)
    if path.suffix in (".pt", ".pth") and is_script(path):
        return of_script(path)
    return _of_estimator(path) or _of_keras(path) or advice_on_foreign(path)


def _of_deepspeed(path: Path) -> str | None:
    if next(path.glob(_DEEPSPEED), None) is not None:
        path = path.parent
    tags = sorted({file.parent.name for file in path.glob(f"*/{_DEEPSPEED}")})
    if not tags:
        return None
    beside = sorted({file.parents[1] for file in path.parent.glob(f"*/*/{_DEEPSPEED}")})
    if len(tags) == 1 and len(beside) > 1:
        # Each folder holds one state, and a file that names it.
        root, loop = path.parent, 'python "$d/zero_to_fp32.py" "$d"'
        pattern, tag = f"{shlex.quote(str(root))}/*/", ""
    else:
        root, loop = path, f"python {shlex.quote(str(path / _DEEPSPEED_SCRIPT))} {shlex.quote(str(path))}"
        pattern, tag = f"{shlex.quote(str(root))}/{_common(tags)}*/", ' --tag "$(basename "$d")"'
    out = f"{root}-fp32"
    command = f'for d in {pattern}; do {loop} {shlex.quote(out)}/"$(basename "$d")"{tag} --safe_serialization; done'
    return f"{path}: DeepSpeed checkpoints, split over processes; merge them with {command}; then use {out}"


def _common(names: list[str]) -> str:
    """Return the common start of names, up to the first digit."""
    fronts = {name.rstrip("0123456789") for name in names}
    return shlex.quote(fronts.pop()) if len(fronts) == 1 else ""


def _of_megatron(path: Path) -> str | None:
    description = path / "metadata.json"
    split = any(next(path.glob(pattern), None) is not None for pattern in _MEGATRON)
    if not split and not (description.is_file() and _MEGATRON_BACKEND in read_start(description, _NAMED_WITHIN)):
        return None
    root = path.parent if path.name.startswith("iter_") else path
    out = f"{root}-hf"
    bridge = (
        "from megatron.bridge import AutoBridge; import sys; "
        "AutoBridge.from_hf_pretrained(sys.argv[1]).export_ckpt(sys.argv[2], sys.argv[3])"
    )
    command = (
        f'for d in {shlex.quote(str(root))}/iter_*; do python -c "{bridge}" MODEL "$d" '
        f'{shlex.quote(out)}/"$(basename "$d")"; done'
    )
    return (
        f"{path}: Megatron checkpoints, split over processes; export them with Megatron Bridge, where MODEL is the "
        f"Hugging Face name of the architecture: {command}; then use {out}"
    )


def _of_adapter(path: Path) -> str | None:
    config = path / _ADAPTER_CONFIG
    if not config.is_file() or next(path.glob("adapter_model.*"), None) is None:
        return None
    try:
        task = read_json(config).get("task_type")
    except (ValueError, AttributeError, RecursionError, RegimeError):
        return None
    root = path.parent
    out = f"{root}-merged"
    code = (
        "import sys, shutil; from pathlib import Path; "
        f"from peft import {_PEFT_CLASSES.get(task, 'AutoPeftModel')} as M; "
        "new = lambda p: Path(sys.argv[2], p.name); "
        "merge = lambda p: M.from_pretrained(str(p), dtype='float32').merge_and_unload().save_pretrained(new(p)); "
        # Files of the tokenizer, and the Trainer's file with the step.
        f"rest = lambda p: [f for f in p.iterdir() if f.suffix in {_TEXTS} and not (new(p) / f.name).exists() "
        "and not f.name.startswith('adapter_')]; "
        "[(merge(p), [shutil.copy(f, new(p)) for f in rest(p)]) "
        f"for p in (c.parent for c in Path(sys.argv[1]).glob('*/{_ADAPTER_CONFIG}'))]"
    )
    return (
        f"{path}: an adapter (LoRA) without the weights of its base model; merge each adapter into the base model "
        f"with {python(code, root, out)}; then use {out}"
    )


def _of_estimator(path: Path) -> str | None:
    ending = _PICKLED.search(path.name)
    if ending is None or not path.is_file():
        return None
    start = _unpacked_start(path)
    if start[:1] != b"\x80" or _NETWORK not in start:
        return None
    out = f"{path.parent}-skops"
    code = f"skops.io.dump(joblib.load(p), o / (p.name.removesuffix('{ending[0]}') + '.skops'))"
    return (
        f"{path}: a pickled scikit-learn estimator, which is not read, since loading it runs the code in it; save the "
        "model with skops.io.dump(model, 'step_0100.skops'), or, if you trust these files: "
        f"{for_each(path, out, code, imports='joblib, skops.io')}; then use {out}"
    )


def _unpacked_start(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed if necessary."""
    start = read_start(path, _NAMED_WITHIN)
    for first_bytes, unpacker in _UNPACKERS.items():
        if start.startswith(first_bytes):
            with contextlib.suppress(zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
                start = unpacker().decompress(start, _NAMED_WITHIN)
            break
    return start


def _of_keras(path: Path) -> str | None:
    if not path.name.endswith(_KERAS_INDEX):
        return None
    whole = path.name.removesuffix(".json")
    if not path.with_name(f"{path.name.removesuffix(_KERAS_INDEX)}_00000.weights.h5").is_file():
        return None
    return (
        f"{path}: Keras weights, split over files; load them into the model and save them as one file: "
        f"model.load_weights({str(path)!r}); model.save_weights({whole + '.h5'!r})"
    )
