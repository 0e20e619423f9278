"""Which way imports run, and what is loaded when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Left is imported by right, never the reverse.
FOLDERS = {
    "regime_proto.schema": "schema",
    "regime_proto": "regime_proto",
    "regime_proto.adapters": "adapters",
    "regime_proto.examples": "examples",
    "regime_proto.cli": "cli",
}
ORDER = list(FOLDERS)


def package_of(module):
    inside = [package for package in ORDER if module == package or module.startswith(package + ".")]
    return max(inside, key=len, default=None)


def imported_modules(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_imports(package, source):
    return [
        module
        for module in imported_modules(source)
        if (target := package_of(module)) is not None
        # Every module imports its own parents; the top package is lazy.
        and module not in ("regime_proto", "regime_proto.__version__")
        and ORDER.index(target) > ORDER.index(package)
    ]


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package):
    files = sorted((ROOT / FOLDERS[package]).rglob("*.py"))
    assert files
    found = {str(path): wrong for path in files if (wrong := wrong_imports(package, path.read_text()))}
    assert not found


def test_the_direction_check_can_fail():
    assert wrong_imports("regime_proto.schema", "from regime_proto.engine import masks")
    assert wrong_imports("regime_proto", "from regime_proto import adapters")
    assert wrong_imports("regime_proto", "def f():\n    import regime_proto.cli.main")
    assert not wrong_imports("regime_proto.cli", "from regime_proto.schema import layout")


def test_the_analyzer_does_not_import_the_engine():
    for path in (ROOT / "regime_proto/analyzer").glob("*.py"):
        assert not [module for module in imported_modules(path.read_text()) if module.startswith("regime_proto.engine")]


FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxruntime", "jax", "keras", "tensorflow", "sklearn")


def loaded_after(code):
    watched = (*FRAMEWORKS, "xarray", "h5py", "numpy", "rich")
    report = f"import sys\n{code}\nprint(*[name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_analyzer_loads_no_framework(tmp_path):
    import regime_proto

    path = regime_proto.synthetic.trajectory(steps=5, path=tmp_path / "run.h5")
    loaded = loaded_after(f"import regime_proto\nregime_proto.analyze({str(path)!r}, batches_per_epoch=1)")
    assert not loaded & set(FRAMEWORKS)
    assert "xarray" in loaded


def test_the_analysis_of_a_trajectory_on_the_command_line_loads_no_framework(tmp_path):
    import regime_proto

    path = regime_proto.synthetic.trajectory(steps=5, path=tmp_path / "run.h5")
    for command in (
        ["analyze", str(path), "--json"],
        ["export", str(path), "--to", "csv", "-o", str(tmp_path / "x.csv")],
    ):
        call = f"from regime_proto.cli.main import main\nmain({command!r}, standalone_mode=False)\nprint()"
        assert not (loaded_after(call) & set(FRAMEWORKS))


def test_the_check_can_fail():
    assert loaded_after("import onnxruntime") >= {"onnxruntime"}


def test_reading_the_schema_loads_nothing_above_it():
    assert loaded_after("import regime_proto.schema.reader") == {"h5py", "numpy"}


def test_help_loads_nothing_heavy():
    call = "from regime_proto.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_after(call) <= {"rich"}


@pytest.mark.parametrize("missing", ["onnx_ir", "onnxruntime"])
def test_a_missing_runtime_says_what_to_install(missing, tmp_path):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {missing!r} else real(name, *rest)
from regime_proto.cli.main import main
main(["inspect", {str(tmp_path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f'{missing} is not installed: pip install "regime-proto[cpu]"' in done.stderr


def test_two_onnxruntimes_are_explained(monkeypatch):
    from regime_proto.schema.errors import RegimeError

    from regime_proto.engine import runtime

    monkeypatch.setattr(runtime, "version", lambda name: "1.0")
    with pytest.raises(RegimeError, match=r"both installed and overwrite each other's files"):
        runtime.require_runtime()
