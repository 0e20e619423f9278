"""Keeps import paths of version 0.1 working: each forwards to the new path, with a DeprecationWarning."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "adapters.commands": "adapters.advice.commands",
    "adapters.dcp_metadata": "adapters.from_torch.dcp_metadata",
    "adapters.exported_program": "adapters.from_torch.exported_program",
    "adapters.foreign_advice": "adapters.advice.foreign",
    "adapters.from_accelerate": "adapters.from_huggingface.from_accelerate",
    "adapters.from_dcp": "adapters.from_torch.from_dcp",
    "adapters.from_flax": "adapters.from_jax.from_flax",
    "adapters.from_lightning": "adapters.from_torch.from_lightning",
    "adapters.from_orbax": "adapters.from_jax.from_orbax",
    "adapters.huggingface_config": "adapters.from_huggingface.config",
    "adapters.huggingface_model": "adapters.from_huggingface.model",
    "adapters.huggingface_names": "adapters.from_huggingface.tensor_names",
    "adapters.huggingface_text": "adapters.from_huggingface.tokenizer",
    "adapters.jax_export": "adapters.from_jax.exporter",
    "adapters.jax_onnx": "adapters.from_jax.functions",
    "adapters.jax_trace": "adapters.from_jax.tracing",
    "adapters.keras_export": "adapters.from_keras.exporter",
    "adapters.live.drawing": "adapters.live.draw_probe",
    "adapters.live.jax_arrays": "adapters.from_jax.live_arrays",
    "adapters.live.jax_follow": "adapters.from_jax.follower",
    "adapters.live.keras_callback": "adapters.from_keras.callback",
    "adapters.live.keras_follow": "adapters.from_keras.follower",
    "adapters.live.lightning_callback": "adapters.from_torch.lightning_callback",
    "adapters.live.torch_engine": "adapters.from_torch.live_engine",
    "adapters.live.torch_follow": "adapters.from_torch.follower",
    "adapters.live.torch_masks": "adapters.from_torch.live_masks",
    "adapters.live.torch_parts": "adapters.from_torch.live_parts",
    "adapters.live.torch_unsharded": "adapters.from_torch.unsharded",
    "adapters.live.torch_weights": "adapters.from_torch.live_weights",
    "adapters.live.trainer_callback": "adapters.from_huggingface.trainer_callback",
    "adapters.msgpack_values": "adapters.from_jax.msgpack_values",
    "adapters.onnx_file": "adapters.from_onnx.file",
    "adapters.onnx_parts": "adapters.from_onnx.parts",
    "adapters.pickle_scan": "adapters.from_torch.pickle_scan",
    "adapters.sklearn_export": "adapters.from_sklearn.exporter",
    "adapters.table": "adapters.sources_table",
    "adapters.torch_advice": "adapters.advice.torch_files",
    "adapters.torch_export": "adapters.from_torch.exporter",
    "adapters.torch_inputs": "adapters.from_torch.inputs",
    "adapters.torch_pickle": "adapters.from_torch.safe_pickle",
    "adapters.torch_stubs": "adapters.from_torch.stubs",
    "adapters.torch_tracing": "adapters.from_torch.tracing",
    "adapters.torch_zip": "adapters.from_torch.zip_file",
    "adapters.trainer_state": "adapters.from_huggingface.trainer_state",
    "analyzer.comparison": "comparison.compare",
    "analyzer.epochs": "schema.epochs",
    "analyzer.labels": "comparison.labels",
    "analyzer.rows": "comparison.rows",
    "analyzer.spread": "comparison.spread",
    "archives": "checkpoints.archives",
    "counters": "checkpoints.counters",
    "dataset": "schema.dataset",
    "directory": "plugins.open_directory",
    "engine.deltas": "quantities.deltas",
    "engine.device": "runtime.device",
    "engine.graph": "program",
    "engine.graph.control_flow": "program.control_flow",
    "engine.graph.edit": "program.edit",
    "engine.graph.exported": "program.exported",
    "engine.graph.expose": "program.mask_outputs",
    "engine.graph.fingerprints": "program.fingerprints",
    "engine.graph.gates": "program.gates",
    "engine.graph.initializers": "program.initializers",
    "engine.graph.matching": "program.tensor_matching",
    "engine.graph.output_units": "engine.output_units",
    "engine.graph.pooling": "program.pooling",
    "engine.graph.program": "program.program",
    "engine.graph.rewrite": "program.rewrite",
    "engine.graph.shapes": "program.shapes",
    "engine.graph.spellings": "program.gate_patterns",
    "engine.graph.values": "program.values",
    "engine.noise": "engine.noise_floor",
    "engine.runtime": "runtime.installed",
    "existing": "conversion.existing",
    "export": "report.export",
    "factory": "plugins.factory",
    "following": "conversion.following",
    "hub": "checkpoints.hub",
    "hub.address": "checkpoints.hub.address",
    "hub.client": "checkpoints.hub.client",
    "hub.downloads": "checkpoints.hub.downloads",
    "hub.files": "checkpoints.hub.files",
    "hub.places": "checkpoints.hub.locations",
    "judging": "conversion.order_check",
    "limits": "checkpoints.limits",
    "measured": "conversion.measured_files",
    "memory": "runtime.memory",
    "name_numbers": "checkpoints.step_in_name",
    "names": "checkpoints.tensor_names",
    "opening": "checkpoints.opening",
    "ordering": "checkpoints.ordering",
    "payload": "checkpoints.payload",
    "places": "checkpoints.locations",
    "plan": "conversion.plan",
    "probe": "program.probe",
    "probe_advice": "program.probe_advice",
    "provenance": "conversion.provenance",
    "recording.journal": "recording.background_writer",
    "recording.ledger": "recording.observations",
    "recording.live": "engine.live_model",
    "recording.quantified": "engine.live_quantities",
    "recording.start": "recording.first_state",
    "registry": "plugins.registry",
    "report.comparison_figures": "report.page.comparison_figures",
    "report.curve_figures": "report.page.curve_figures",
    "report.drawing": "report.page.drawing",
    "report.drawn": "report.print.drawn",
    "report.layer_figures": "report.page.layer_figures",
    "report.mask_figures": "report.page.mask_figures",
    "report.metrics": "report.print.metrics",
    "report.panels": "report.print.panels",
    "report.print_figure": "report.print.figure",
    "report.quantity_figures": "report.page.quantity_figures",
    "report.reading_figures": "report.page.reading_figures",
    "report.style": "report.print.style",
    "report.words": "report.page.words",
    "sample_axes": "program.sample_axes",
    "source": "checkpoints.source",
    "step_pattern": "checkpoints.pattern_option",
    "text": "schema.text",
    "trees": "checkpoints.param_trees",
    "trial": "engine.trial",
    "unpack": "conversion.unpack",
}
"""New path of each module, without the package's name."""

_PROTOCOLS = (
    "Advising", "Describing", "Exporter", "FIRST_BYTES", "Following", "Outlining", "Reader", "Sharded", "Sniffing",
    "Tokenizing",
)  # fmt: skip
_NAMES = {
    "registry": dict.fromkeys(_PROTOCOLS, "plugins.protocols"),
    "source": dict.fromkeys(("is_floating", "is_numpys", "is_real", "widest"), "schema.dtypes"),
}
"""Names that moved to a different module from the rest of their old module."""

_ADAPTER = (
    "ENVIRONMENT", "MODELS", "REFINES", "SUFFIXES", "accepts", "advice", "draw", "export", "follow", "leads", "load",
    "outline", "peek", "program_of", "read", "recognise", "sniff", "tokenize",
)  # fmt: skip
_FRONT = "regime_proto."


def attributes(package: str, home: str, names: Sequence[str] = _ADAPTER) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that used to be a module, and whose names are now in `home`."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(home), name)
        _warn(f"{package}.{name}", f"{home}.{name}")
        return found

    return find


def install() -> None:
    """Register a finder that forwards imports of old paths to the new ones."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First in the list: other finders would load a second copy of the modules in a moved package.
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        moved = name.startswith(_FRONT) and name.removeprefix(_FRONT) in MODULES
        return ModuleSpec(name, self, is_package=moved) if moved else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(_FRONT)
        new = _FRONT + MODULES[old]
        _warn(module.__name__, new)

        def find(name: str) -> Any:
            home = _NAMES.get(old, {}).get(name)
            return getattr(importlib.import_module(new if home is None else _FRONT + home), name)

        module.__dict__["__getattr__"] = find


def _warn(old: str, new: str) -> None:
    # The third frame is the import statement; frames of the import system are not counted.
    warnings.warn(f"{old} is now {new}; the old path works until version 1.0", DeprecationWarning, stacklevel=3)
