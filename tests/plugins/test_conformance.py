"""What every adapter keeps to, on files that the library itself wrote."""

import hashlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import bare
import numpy as np
import pytest
import sources
from libraries import load_exporter, needed

import regime_proto
from regime_proto.conversion.plan import PROBE_FILE, PROGRAM_FILE, write_program
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.registry import readers
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema import validate


@dataclass(frozen=True)
class Case:
    """A source: its adapter, what writes it, and the model that is written.

    `takes_model` is False where the checkpoints bring their model, `says_loss` where they hold no loss. `needs` is what
    has to be there to read them, and what a user is told to install. `given` makes what a user gives as the model where
    that is not the one of torch; its weights may be transposed, and then Δw is summed in another order (`rounding`).
    """

    adapter: str
    write: Callable
    make: Callable = sources.mlp
    takes_model: bool = True
    says_loss: bool = True
    needs: tuple[str, str] | None = None
    library: str | None = None
    given: Callable | None = None
    rounding: float = 0


TORCH = ("torch", 'pip install "regime-proto[torch]"')
TENSORSTORE = ("tensorstore", 'pip install "regime-proto[flax]"')
CASES = {
    "torch": Case("torch", sources.torch_files),
    "torch with objects": Case("torch", sources.torch_files_with_objects, needs=TORCH),
    "safetensors": Case("safetensors", sources.safetensors_files),
    "folder": Case("folder", sources.sharded_folders),
    "npz": Case("npz", sources.npz_files),
    "onnx": Case("onnx", sources.onnx_files, takes_model=False),
    "dcp": Case("dcp", sources.dcp_folders),
    "huggingface": Case("huggingface", sources.huggingface_folders, sources.resnet, takes_model=False),
    "accelerate": Case("accelerate", sources.accelerate_folders, says_loss=False, library="accelerate"),
    "lightning": Case("lightning", sources.lightning_files, says_loss=False, library="lightning"),
    "orbax": Case("orbax", sources.orbax_folders, needs=TENSORSTORE, library="orbax.checkpoint"),
    "flax": Case("flax", sources.flax_files, needs=("msgpack", 'pip install "regime-proto[flax]"'), library="flax"),
    "keras": Case(
        "keras",
        sources.keras_files,
        sources.plain_mlp,
        says_loss=False,
        library="keras",
        given=sources.keras_mlp,
        rounding=1e-12,
    ),
    "sklearn": Case(
        "sklearn",
        sources.skops_files,
        sources.plain_mlp,
        library="skops.io",
        given=sources.mlp_classifier,
        rounding=1e-12,
    ),
}


def parameters():
    for name, case in CASES.items():
        yield pytest.param(case, id=name, marks=[pytest.mark.libraries] if case.library else [])


@cache
def states_of(make):
    return sources.states(make)


@pytest.fixture(scope="module", params=parameters())
def source(request, tmp_path_factory):
    """A source, and a run that it wrote."""
    case = request.param
    if case.library:
        needed(case.library)
    if case.library == "keras":
        load_exporter()
    folder = tmp_path_factory.mktemp("source") / "run"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.write(folder, states_of(case.make))
    return case, folder


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """For what makes a model: a folder with its states as plain files of torch, and their trajectory; made once."""

    @cache
    def made(make):
        folder = tmp_path_factory.mktemp("reference") / "run"
        folder.mkdir()
        sources.torch_files(folder, states_of(make))
        model, probe = make()
        write_program(folder, model=model, probe=probe)
        return folder, regime_proto.convert(folder, folder.parent / "run.h5")

    return made


@pytest.fixture
def reference(source, references):
    """What the run of the source is held against."""
    return references(source[0].make)


def content_of(folder):
    """Return hash and time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_is_recognised_by_content_and_says_by_what(source):
    case, folder = source
    found = open_directory(folder)
    assert found.adapter == case.adapter
    assert len(found.recognised) > 10
    assert open_directory(folder, SourceSettings(adapter=case.adapter)).checkpoints == found.checkpoints


def test_the_order_is_kept(source):
    found = open_directory(source[1])
    assert tuple(checkpoint.step for checkpoint in found.checkpoints) == sources.STEPS
    assert found.step_kind == "step"
    assert not found.skipped


def test_states_are_owned_or_copied(source):
    """Arrays of one state stay what they were when others are read, and nobody can write into another's."""
    found = open_directory(source[1])
    first = found.read(found.checkpoints[0]).tensors
    before = {name: array.copy() for name, array in first.items()}
    again = found.read(found.checkpoints[0]).tensors
    for checkpoint in found.checkpoints[1:]:
        found.read(checkpoint)
    for name, array in first.items():
        np.testing.assert_array_equal(array, before[name])
        assert not array.flags.writeable or not np.shares_memory(array, again[name])


def test_a_conversion_gives_the_numbers_of_plain_files(source, reference, tmp_path):
    (case, written), (plain, expected_path) = source, reference
    folder = Path(shutil.copytree(written, tmp_path / "run"))
    given = {} if case.given is None else {"model": case.given()}
    if case.takes_model and not given:
        for name in (PROGRAM_FILE, PROBE_FILE):
            shutil.copy(plain / name, folder)
    else:
        given["probe"] = case.make()[1]
    before = content_of(folder)
    path = regime_proto.convert(folder, tmp_path / "run.h5", **given)
    assert content_of(folder) == before, "the input was touched"
    assert validate(path) == []
    with regime_proto.open_trajectory(path) as found, regime_proto.open_trajectory(expected_path) as expected:
        assert found["step"].values.tolist() == list(sources.STEPS)
        if case.says_loss:
            np.testing.assert_allclose(found["metric_loss"], [sources.LOSS[step] for step in sources.STEPS])
        for variable in ("weight_delta_l1", "weight_delta_l2"):
            np.testing.assert_allclose(
                found[variable], expected[variable], rtol=case.rounding, atol=0, err_msg=variable
            )
        for variable in ("flips", "mask"):
            np.testing.assert_array_equal(found[variable], expected[variable], err_msg=variable)
        assert found.attrs["source_adapter"] == case.adapter
        for attribute in (
            "framework",
            "engine",
            "created",
            "run_id",
            "software",
            "source_fingerprint",
            "program_sha256",
        ):
            assert found.attrs[attribute], attribute


def test_a_missing_framework_gives_the_install_line(source):
    """Without the framework the files are read all the same, or one line says what to install."""
    case, folder = source
    framework, line = case.needs or (case.library or "torch", None)
    code = f"""
from pathlib import Path
from regime_proto.plugins.open_directory import open_directory
from regime_proto.plugins.source_settings import SourceSettings
from regime_proto.schema.errors import RegimeError
try:
    source = open_directory(Path({str(folder)!r}))
    print(len(source.read(source.checkpoints[0]).tensors))
except RegimeError as error:
    print(error)
"""
    done = bare.run(code, without=[framework])
    assert done.returncode == 0, done.stderr
    if line is None:
        assert int(done.stdout) >= 10
    else:
        assert line in done.stdout
        assert len(done.stdout.splitlines()) == 1


def test_every_reader_is_held_to_this():
    assert {case.adapter for case in CASES.values()} == set(readers())
