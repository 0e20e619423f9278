"""Which way imports run, and what is loaded when."""

import ast
import subprocess
import sys

import nets
import pytest
from folders import ROOT
from nets import save_run

from regime_proto.conversion.plan import write_program

# Left is imported by right, never the reverse.
FOLDERS = {
    "regime_proto.schema": "schema",
    "regime_proto": "regime_proto",
    "regime_proto.adapters": "adapters",
    "regime_proto.examples": "examples",
    "regime_proto.cli": "cli",
}
ORDER = list(FOLDERS)


# Inside of regime_proto the same: each room may import those before it.
ROOMS = (
    "runtime", "checkpoints", "program", "quantities", "engine", "plugins", "integrity", "conversion", "recording",
    "analyzer", "comparison", "report",
)  # fmt: skip
# Beside the rooms: what makes up trajectories for tests, and what leads old paths to new ones.
BESIDE = ("regime_proto", "regime_proto.synthetic", "regime_proto.moved")


def package_of(module):
    inside = [package for package in ORDER if module == package or module.startswith(package + ".")]
    return max(inside, key=len, default=None)


def room_of(module):
    """Return the room of a module of regime_proto; None for other packages, and for what stands beside the rooms."""
    return module.split(".")[1] if package_of(module) == "regime_proto" and module not in BESIDE else None


def imported_modules(source):
    """Yield what a module imports, at its top or later; what is imported for types only runs no code."""
    pending = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        pending += ast.iter_child_nodes(node)


def modules():
    """Return the file of every module, by name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def wrong_imports(importer, source):
    """Return what a module imports against the order of packages and rooms."""
    package, room = package_of(importer), room_of(importer)
    wrong = []
    for module in imported_modules(source):
        target = package_of(module)
        # Every module imports its own parents; the top package is lazy.
        if target is None or module in ("regime_proto", "regime_proto.__version__", "regime_proto.moved"):
            continue
        other = room_of(module)
        if ORDER.index(target) > ORDER.index(package) or (
            room in ROOMS and other in ROOMS and ROOMS.index(other) > ROOMS.index(room)
        ):
            wrong.append(module)
    return wrong


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package):
    mine = {name: path for name, path in modules().items() if package_of(name) == package}
    assert mine
    found = {name: wrong for name, path in mine.items() if (wrong := wrong_imports(name, path.read_text()))}
    assert not found


def test_every_room_is_in_the_order():
    rooms = {room_of(name) for name in modules()} - {None}
    assert rooms == set(ROOMS)


def test_the_direction_check_can_fail():
    assert wrong_imports("regime_proto.schema.reader", "from regime_proto.engine import masks")
    assert wrong_imports("regime_proto.engine.masks", "from regime_proto import adapters")
    assert wrong_imports("regime_proto.engine.masks", "def f():\n    import regime_proto.cli.main")
    assert wrong_imports("regime_proto.checkpoints.source", "from regime_proto.program.program import Program")
    assert not wrong_imports("regime_proto.cli.main", "from regime_proto.schema import layout")
    assert not wrong_imports("regime_proto.engine.masks", "from regime_proto.program.program import Program")


def circles(imports):
    """Return the groups of modules that import one another, late imports included."""
    reached = {name: set(targets) for name, targets in imports.items()}
    grown = True
    while grown:
        sizes = [len(targets) for targets in reached.values()]
        for targets in reached.values():
            targets |= set().union(*(reached.get(target, ()) for target in targets))
        grown = sizes != [len(targets) for targets in reached.values()]
    return {name for name, targets in reached.items() if name in targets}


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    lazy = {"regime_proto"}
    imports = {
        name: {target for target in imported_modules(path.read_text()) if target in known and target not in lazy}
        for name, path in known.items()
        if name not in lazy
    }
    # A package is not its modules: what imports one of these does not import the package's own names.
    packages = {name for name in known if any(other.startswith(name + ".") for other in known)}
    assert not circles({name: targets - packages for name, targets in imports.items()})


def test_the_search_for_circles_can_fail():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}
    assert not circles({"a": {"b"}, "b": {"c"}, "c": set()})


def folder_of(name):
    """Return the folder of an adapter, or the adapter where it is a module of its own."""
    return name.removeprefix("regime_proto.adapters.").split(".")[0]


def test_no_two_folders_of_adapters_import_each_other():
    mine = {name: path for name, path in modules().items() if name.startswith("regime_proto.adapters.")}
    arrows = {
        (folder_of(name), folder_of(target))
        for name, path in mine.items()
        for target in imported_modules(path.read_text())
        if target in mine
    }
    assert not {(one, other) for one, other in arrows if one < other and (other, one) in arrows}


def test_the_analyzer_does_not_import_the_engine():
    for path in (ROOT / "regime_proto/analyzer").glob("*.py"):
        assert not [
            module
            for module in imported_modules(path.read_text())
            if module.startswith(("regime_proto.engine", "regime_proto.program"))
        ]


FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxruntime", "jax", "keras", "tensorflow", "sklearn")


WATCHED = (*FRAMEWORKS, "xarray", "h5py", "numpy", "rich", "pandas", "sympy", "scipy")


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


def test_converting_loads_nothing_that_it_does_not_use(tmp_path):
    """Half a second each, of a command that may take one."""
    model = nets.make_mlp()
    save_run(tmp_path / "run", model)
    write_program(tmp_path / "run", model=model, probe=nets.probe(model))
    command = ["convert", str(tmp_path / "run"), "-o", str(tmp_path / "run.h5"), "--quiet"]
    loaded, later = loaded_after(
        f"from regime_proto.cli.main import main\nmain({command!r}, standalone_mode=False)",
        "import onnx_ir\nassert str(onnx_ir.SymbolicDim('max(N,3)') + 1) == 'Max(3, N) + 1'",
    )
    assert loaded >= {"onnx_ir", "onnxruntime", "h5py", "numpy"}
    assert not loaded & {"xarray", "pandas", "sympy", "scipy", "torch"}
    assert "sympy" in later


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
