"""Advice for files of libraries without an adapter, by suffix: the commands that convert them."""

import re
from collections.abc import Callable
from pathlib import Path

from regime_proto.adapters.advice.commands import for_each, quoted
from regime_proto.adapters.first_bytes import first_entry
from regime_proto.checkpoints.locations import first_bytes

_FACTORY = "MODULE:FACTORY"
_SAVED_MODEL = "saved_model.pb"
_POLICY = "policy.pth"
_LOOKED_AT = 2**20
_OF_JAX = re.compile(rb"jax|flax|haiku|optax")
_OF_NUMPY = b"_reconstruct"


def advice(path: Path) -> str | None:
    """Return what a file with the suffix of another library is, and the command that converts it; None if unknown."""
    of_kind = _BY_SUFFIX.get(path.suffix)
    return of_kind(path) if of_kind is not None and path.is_file() else None


def of_saved_model(path: Path) -> str | None:
    """Return the advice for SavedModel folders of TensorFlow: a command that converts them to ONNX."""
    if not (path / _SAVED_MODEL).is_file():
        return None
    out = f"{path.parent}-onnx"
    command = (
        f'for d in {quoted(path.parent)}/*/; do if [ -f "$d"{_SAVED_MODEL} ]; then mkdir -p {quoted(out)}; '
        f'python -m tf2onnx.convert --saved-model "$d" --output {quoted(out)}/"$(basename "$d")".onnx; fi; done'
    )
    return (
        f"{path}: a TensorFlow SavedModel, which holds code; convert such folders to ONNX models with tf2onnx: "
        f"{command}; then use {out}"
    )


def _of_tensorflow(path: Path) -> str | None:
    if next(path.parent.glob(f"{path.stem}.data-00000-of-*"), None) is None:
        return None
    out = f"{path.parent}-keras"
    before = (
        "os.environ['KERAS_BACKEND'] = 'tensorflow'; module, factory = sys.argv[4].split(':'); "
        "model = getattr(importlib.import_module(module), factory)(); "
    )
    code = (
        "(tf.train.Checkpoint(model=model).restore(str(p.with_suffix(''))).assert_existing_objects_matched(), "
        "model.save_weights(o / (p.stem + '.weights.h5')))"
    )
    imports = "importlib, os, tensorflow as tf"
    command = for_each(path, out, code, imports=imports, before=before, more=(_FACTORY,))
    return (
        f"{path}: a TensorFlow checkpoint; load it into the model that {_FACTORY} builds, and save its weights (if "
        f"the training used a different name, such as net=, replace model=): {command}; then use {out}"
    )


def _of_equinox(path: Path) -> str:
    out = f"{path.parent}-npz"
    # Python numbers are saved as arrays too, with eight bytes and no axes.
    leaves = (
        "leaves = lambda f: [a for a in (np.load(f) for _ in iter(lambda: f.peek(1), b'')) "
        "if a.dtype.kind in 'fcV' and (a.ndim or a.itemsize < 8)]; "
    )
    code = "np.savez(o / (p.stem + '.npz'), **{str(i): a for i, a in enumerate(leaves(p.open('rb')))})"
    return (
        f"{path}: Equinox arrays without names; number them with "
        f"{for_each(path, out, code, imports='numpy as np', before=leaves)}; then use {out} and, as the model, the "
        "pair (lambda leaves, x: jax.vmap(eqx.combine(jax.tree.unflatten(tree, leaves), rest))(x), leaves) after "
        "weights, rest = eqx.partition(model, eqx.is_inexact_array) and leaves, tree = jax.tree.flatten(weights)"
    )


def _of_pickled_arrays(path: Path) -> str | None:
    start = first_bytes(path, _LOOKED_AT)
    is_numbered = any(letter.isdecimal() for letter in path.stem)
    if start[:1] != b"\x80" or not (_OF_JAX.search(start) or (is_numbered and _OF_NUMPY in start)):
        return None
    out = f"{path.parent}-safetensors"
    before = (
        "items = lambda t: dict(t.items()) if hasattr(t, 'items') else {}; "
        "parts = lambda t: {k: v for k, v in items(t).items() if not isinstance(v, numbers) or np.ndim(v)}; "
        "model = lambda d, t: d['params'] if list(d) == ['params'] else d or t; "
        "numbers = (int, float, np.generic, jax.Array); "
        "named = lambda t: {keystr(k, simple=True, separator='.'): np.asarray(v) for k, v in flat(t)[0]}; "
        "save = lambda t, f: save_file(named(model({k: v for k, v in parts(t).items() if not str(k).startswith('opt')}"
        ", t)), f, {k: str(v) for k, v in items(t).items() if k not in parts(t)}); "
    )
    imports = (
        "pickle, jax, numpy as np; from jax.tree_util import keystr, tree_flatten_with_path as flat; "
        "from safetensors.numpy import save_file"
    )
    code = "save(pickle.load(p.open('rb')), o / (p.stem + '.safetensors'))"
    return (
        f"{path}: pickled JAX or NumPy arrays, which are not read, since loading a pickle runs the code in it; save "
        "them with flax.serialization.to_bytes or numpy.savez, or, if you trust these files: "
        f"{for_each(path, out, code, imports=imports, before=before)}; then use {out}"
    )


def _of_paddle(path: Path) -> str:
    out = f"{path.parent}-npz"
    code = (
        "np.savez(o / (p.stem + '.npz'), **{k: v for k, v in paddle.load(str(p), return_numpy=True).items() "
        "if isinstance(v, np.ndarray)})"
    )
    return (
        f"{path}: PaddlePaddle weights in a pickle; save them as arrays with "
        f"{for_each(path, out, code, imports='paddle, numpy as np')}; then use {out}"
    )


def _of_stable_baselines(path: Path) -> str | None:
    start = first_bytes(path, 64)
    if first_entry(start) != "data":
        return None
    out = f"{path.parent}-policies"
    code = f"(o / (p.stem + '.pt')).write_bytes(zipfile.ZipFile(p).read('{_POLICY}'))"
    only = f"zipfile.is_zipfile(p) and '{_POLICY}' in zipfile.ZipFile(p).namelist()"
    return (
        f"{path}: a Stable-Baselines3 agent; extract the weights of its policy with "
        f"{for_each(path, out, code, imports='zipfile', only=only)}; then use {out}"
    )


_BY_SUFFIX: dict[str, Callable[[Path], str | None]] = {
    ".eqx": _of_equinox,
    ".index": _of_tensorflow,
    ".pdparams": _of_paddle,
    ".pickle": _of_pickled_arrays,
    ".pkl": _of_pickled_arrays,
    ".zip": _of_stable_baselines,
}
