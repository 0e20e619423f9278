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


WATCHED = (*FRAMEWORKS, "xarray", "h5py", "numpy", "rich")


def loaded_after(*codes):
    """Return what is loaded after each of some pieces of code that one process runs."""
    marker = "loaded so far:"
    report = f"print()\nimport sys\nprint({marker!r}, *[name for name in {WATCHED!r} if name in sys.modules])\n"
    program = "".join(f"{code}\n{report}" for code in codes)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [set(line.split()[3:]) for line in done.stdout.splitlines() if line.startswith(marker)]
    assert len(found) == len(codes)
    return found


def test_reading_a_trajectory_loads_no_framework(tmp_path):
    """By Python, and by the commands, one after the other."""
    import regime_proto

    path = str(regime_proto.synthetic.trajectory(steps=5, path=tmp_path / "run.h5"))
    commands = [
        ["analyze", path, "--json"],
        ["export", path, "--to", "csv"],
        ["export", path, "--to", "csv", "-o", str(tmp_path / "x.csv")],
        ["compare", path],
    ]
    steps = {
        "analyze in Python": f"import regime_proto\nregime_proto.analyze({path!r}, batches_per_epoch=1)",
        **{
            " ".join(command): f"from regime_proto.cli.main import main\nmain({command!r}, standalone_mode=False)"
            for command in commands
        },
    }
    for step, loaded in zip(steps, loaded_after(*steps.values()), strict=True):
        assert not loaded & set(FRAMEWORKS), step
        assert "xarray" in loaded


def test_the_check_can_fail():
    [loaded] = loaded_after("import onnxruntime")
    assert loaded >= {"onnxruntime"}


def test_reading_the_schema_loads_nothing_above_it():
    assert loaded_after("import regime_proto.schema.reader") == [{"h5py", "numpy"}]


def test_help_loads_nothing_heavy():
    call = "from regime_proto.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    [loaded] = loaded_after(call)
    assert loaded <= {"rich"}


def test_a_missing_runtime_says_what_to_install(tmp_path):
    code = f"""
import importlib.util, sys
real = importlib.util.find_spec
from regime_proto.cli.main import main
for missing in ("onnx_ir", "onnxruntime"):
    sys.modules[missing] = None
    importlib.util.find_spec = lambda name, *rest: None if name == missing else real(name, *rest)
    try:
        main(["inspect", {str(tmp_path)!r}])
    except SystemExit as end:
        print(end.code)
    del sys.modules[missing]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    for missing, line in zip(("onnx_ir", "onnxruntime"), done.stderr.splitlines(), strict=True):
        assert f'{missing} is not installed: pip install "regime-proto[cpu]"' in line


def test_two_onnxruntimes_are_explained(monkeypatch):
    from regime_proto.runtime import installed
    from regime_proto.schema.errors import RegimeError

    monkeypatch.setattr(installed, "version", lambda name: "1.0")
    with pytest.raises(RegimeError, match=r"both installed and overwrite each other's files"):
        installed.require_runtime()
