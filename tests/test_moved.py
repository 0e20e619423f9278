"""Import paths of version 0.1: they lead to where things are now, and say so."""

import importlib
import subprocess
import sys
import warnings

import pytest

from regime_proto import moved

# What scripts of users and adapters of others import by name.
USED = {
    "regime_proto.adapters.live.trainer_callback": ("RegimeCallback",),
    "regime_proto.adapters.live.lightning_callback": ("RegimeCallback",),
    "regime_proto.adapters.live.keras_callback": ("RegimeCallback",),
    "regime_proto.adapters.from_safetensors": ("read",),
    "regime_proto.adapters.from_torch": ("SUFFIXES", "read", "export", "follow"),
    "regime_proto.adapters.from_keras": ("read", "export"),
    "regime_proto.adapters.from_jax": ("export",),
    "regime_proto.adapters.from_sklearn": ("read", "export"),
    "regime_proto.adapters.from_onnx": ("read", "program_of"),
    "regime_proto.adapters.from_huggingface": ("read", "program_of", "tokenize"),
    "regime_proto.adapters.advice": ("advice",),
    "regime_proto.analyzer.comparison": ("compare", "Comparison"),
    "regime_proto.conversion": ("convert", "run_plan"),
    "regime_proto.dataset": ("open_trajectory",),
    "regime_proto.directory": ("open_directory",),
    "regime_proto.engine.graph.program": ("Program",),
    "regime_proto.export": ("write_csv",),
    "regime_proto.hub.address": ("parse",),
    "regime_proto.payload": ("Payload", "Label", "Incomplete", "NotACheckpoint", "state_of"),
    "regime_proto.plan": ("make_plan", "write_program"),
    "regime_proto.probe": ("Probe", "as_probe"),
    "regime_proto.recording.ledger": ("Status",),
    "regime_proto.registry": ("Reader", "Exporter", "Following", "exporter_for"),
    "regime_proto.report.page": ("report",),
    "regime_proto.report.print_figure": ("plot",),
    "regime_proto.source": ("Array", "Checkpoint", "State", "Source", "widest"),
}


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_every_old_module_leads_to_one_that_exists(old):
    there = importlib.import_module(f"regime_proto.{old}")
    now = importlib.import_module(f"regime_proto.{moved.MODULES[old]}")
    public = [name for name in vars(now) if not name.startswith("_")]
    assert all(getattr(there, name) is getattr(now, name) for name in public)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", [old for old in sorted(moved.MODULES) if not old.startswith("adapters.")])
def test_old_modules_of_the_package_lead_to_those_that_exist(old):
    there = importlib.import_module(f"regime_proto.{old}")
    assert vars(importlib.import_module(f"regime_proto.{moved.MODULES[old]}")).keys() - vars(there).keys()


@pytest.mark.parametrize(("old", "names"), [(old, names) for old, names in USED.items() if "live" not in old])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_that_others_import_are_there(old, names):
    module = importlib.import_module(old)
    for name in names:
        assert getattr(module, name) is not None


def test_the_warning_names_both_paths_and_the_line_that_imports(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import regime_proto.probe\nfrom regime_proto.adapters.from_torch import read\n")
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", script], capture_output=True, text=True, check=True
    )
    assert f"{script}:1: DeprecationWarning: regime_proto.probe is now regime_proto.program.probe" in done.stderr
    assert f"{script}:2: DeprecationWarning: regime_proto.adapters.from_torch.read is now " in done.stderr


def test_there_is_one_copy_of_everything():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from regime_proto.engine.graph.program import Program as old
        from regime_proto.source import widest
    from regime_proto.program.program import Program
    from regime_proto.schema import dtypes

    assert old is Program
    assert widest is dtypes.widest


def test_a_name_that_never_was_is_missed_as_usual():
    with pytest.raises(ModuleNotFoundError, match=r"regime_proto\.probes"):
        importlib.import_module("regime_proto.probes")
    from regime_proto.adapters import from_torch

    with pytest.raises(AttributeError, match="has no attribute 'reed'"):
        from_torch.reed  # noqa: B018
