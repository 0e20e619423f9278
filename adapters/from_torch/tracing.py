"""Context for tracing a torch module: no fused shortcuts, no checks of values, no output on the screen."""

import contextlib
import inspect
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from regime_proto.adapters.from_onnx.file import silent

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Unless it is passed explicitly, torch determines whether their mask is causal by comparing values.
_CAUSAL = {nn.TransformerEncoder: "is_causal", nn.TransformerDecoder: "tgt_is_causal"}
# The switches apply to the whole process, so a second thread that traces has to wait.
_LOCK = threading.RLock()


@contextlib.contextmanager
def tracing(model: Any) -> Iterator[None]:
    """Prepare for tracing a module, or a program of `torch.export`; everything is restored afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_LOCK)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(silent("torch"))
        stack.enter_context(_muted())
        stack.enter_context(_without_shortcuts())
        stack.enter_context(_explicit_masks(model))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Traceable())
        yield


class _Traceable(TorchFunctionMode):  # type: ignore[misc]
    """Replaces operations that cannot be exported."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is getattr(torch, "_is_all_true", None):
            # Checks of distributions that the model itself requests.
            return True
        if func is torch.Tensor.__rsub__ and isinstance(args[1], float) and args[0].dtype in _WHOLE:
            # ``1.0 - mask`` for integers: the exporter fails to convert both to one type itself.
            args = (args[0].to(torch.get_default_dtype()), args[1])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _without_shortcuts() -> Iterator[None]:
    """Disable torch's fused transformer layers, which ONNX lacks, and the checks of distributions."""
    fused, checks = torch.backends.mha.get_fastpath_enabled(), Distribution._validate_args
    torch.backends.mha.set_fastpath_enabled(False)
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        Distribution.set_default_validate_args(checks)


@contextlib.contextmanager
def _explicit_masks(model: Any) -> Iterator[None]:
    """Let transformer layers use their mask unchanged, without inspecting its values."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    hooks = [
        module.register_forward_pre_hook(_as_it_is(type(module).forward, name), with_kwargs=True)
        for module in modules
        for kind, name in _CAUSAL.items()
        if isinstance(module, kind)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _as_it_is(forward: Any, name: str) -> Any:
    signature = inspect.signature(forward)

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if name not in signature.parameters:
            return None
        given = signature.bind_partial(module, *args, **kwargs)
        if given.arguments.get(name) is not None:
            return None
        given.arguments[name] = False
        return given.args[1:], given.kwargs

    return hook


class _Mute:
    """A stream that forwards only the output of other threads."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Suppress the output of torch, which may print graphs of many pages."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    muted = {name: _Mute(stream) for name, stream in before.items() if stream is not None}
    for name, stream in muted.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in muted.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, before[name])
