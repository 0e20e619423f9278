"""The curves of a result, as other tools read them."""

import csv
import io
import itertools
import json
import pickle
import shutil
import subprocess

import h5py
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
import xarray as xr
from commands import REGIME, assert_one_line, regime
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import make_run, synthetic

import regime_proto
from regime_proto.cli.main import main
from regime_proto.report.export import FORMATS, SERIES, STAGES, write_csv
from regime_proto.schema.text import csv_cell

NAMES = ['a, "quoted"', "line\nbreak", "carriage\rreturn", "ρ, ünïcode", "'; DROP"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A trajectory with a noisy curve, so that the numbers have all their digits. Read only."""
    return regime_proto.synthetic.trajectory(
        steps=60, layers=4, noise=0.1, observations_per_epoch=20.0, path=tmp_path_factory.mktemp("path") / "run.h5"
    )


@pytest.fixture(scope="module", params=["paper", "strict"])
def result(request, path):
    return regime_proto.analyze(path, preset=request.param)


@pytest.fixture(scope="module")
def small():
    return synthetic(steps=6, layers=1, units=64)


def exported(result, form):
    file = io.BytesIO()
    FORMATS[form](result, file)
    return file.getvalue()


def rows(content):
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def number(text):
    return float(text) if text else np.nan


def opened(content, engine, folder):
    path = folder / "curves.nc"
    path.write_bytes(content)
    with xr.open_dataset(path, engine=engine) as dataset:
        return dataset.load()


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def undefined():
    """A result of which much is undefined: nothing has a scale, and one layer has no units at all."""
    trajectory = synthetic(weights="constant", patterns="constant", steps=9, layers=2)
    units = trajectory["layer_units"].to_numpy().copy()
    units[1] = 0
    return regime_proto.analyze(trajectory.assign(layer_units=(("layer", "sample"), units)), batches_per_epoch=1)


def test_csv_holds_every_number_exactly(result):
    found = rows(exported(result, "csv"))
    for series, stage in itertools.product(SERIES, STAGES):
        expected = result.curves[f"{series}_{stage}"].to_numpy()
        values = [number(row[stage]) for row in found if row["series"] == series]
        np.testing.assert_array_equal(np.reshape(values, expected.shape), expected)


def test_csv_is_ordered_by_series_step_and_layer(result):
    found = [(row["series"], row["step"], row["layer"]) for row in rows(exported(result, "csv"))]
    steps = [str(step) for step in range(1, 61)]
    layers = [f"relu_{index}" for index in range(4)]
    assert found == [
        *itertools.product(["weight"], steps, [""]),
        *itertools.product(["pattern"], steps, [""]),
        *itertools.product(["layer_pattern"], steps, layers),
    ]


def test_csv_has_the_promised_header_and_line_ends(result):
    content = exported(result, "csv")
    assert content.startswith(b"step,series,layer,change,smoothed,normalised\n1,weight,,")
    assert content.endswith(b"\n")
    assert b"\r" not in content


def test_pandas_reads_the_table(result):
    table = pd.read_csv(io.BytesIO(exported(result, "csv")))
    layers = table[table.series == "layer_pattern"].pivot(index="step", columns="layer", values="smoothed")
    # What pandas makes of the digits may differ in the last place.
    np.testing.assert_allclose(layers.to_numpy(), result.curves["layer_pattern_smoothed"].to_numpy(), rtol=1e-15)
    assert table[table.series != "layer_pattern"].layer.isna().all()


def test_json_holds_what_a_paper_reports(tmp_path):
    path = make_run(
        tmp_path / "run.h5", notes={"seed": 3, "rate": np.inf}, program="a" * 64, stride=10, observations_per_epoch=5.0
    )
    expected = {
        "notes": {"seed": 3, "rate": None}, "samples": 4, "observations_per_epoch": 5.0, "first_step": 100,
        "last_step": 300, "program_sha256": "a" * 64, "probe_sha256": None,
    }  # fmt: skip
    with h5py.File(path) as file:
        sizes = file["tensor_size"][...]
    expected |= {"tensors": len(sizes), "parameters": int(sizes.sum())}
    exporting = ("export", path, "--to", "json", "--steps", "100:300")
    for command in (("analyze", path, "--json", "--steps", "100:300"), exporting):
        found = json.loads(regime(*command).stdout)
        assert {name: found[name] for name in expected} == expected
    without = regime_proto.analyze(make_run(tmp_path / "bare.h5"), batches_per_epoch=7).to_json()
    assert (without["observations_per_epoch"], without["notes"]) == (7, {})


def test_json_holds_the_result_and_every_number_exactly(result):
    found = json.loads(exported(result, "json"), parse_constant=refuse_constant)
    found_curves = found.pop("curves")
    assert found == json.loads(json.dumps(result.to_json()))
    assert found_curves.keys() == set(result.curves.variables)
    for name, values in result.curves.variables.items():
        dtype = values.dtype if name in ("step", "layer") else np.float64
        np.testing.assert_array_equal(np.array(found_curves[name], dtype), values.to_numpy())


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_netcdf_holds_the_curves_and_the_numbers(result, engine, tmp_path):
    found = opened(exported(result, "netcdf"), engine, tmp_path)
    xr.testing.assert_equal(found, result.curves)
    assert found["layer_pattern_change"].dims == ("step", "layer")
    for name in ("rho", "auc_w", "auc_p", "preset", "window", "stride", "observations", "step_kind", "trajectory"):
        assert found.attrs[name] == getattr(result, name), name
    assert tuple(found.attrs["rho_range"]) == result.rho_range
    assert "noise_floor" not in found.attrs


def test_netcdf_variables_say_what_they_are(result, tmp_path):
    found = opened(exported(result, "netcdf"), "netcdf4", tmp_path)
    meanings = [variable.attrs["long_name"] for variable in found.variables.values()]
    assert len(set(meanings)) == len(found.variables) == 11
    # As in the trajectory, a label has no unit.
    assert {name for name, variable in found.variables.items() if variable.attrs.get("units") != "1"} == {"layer"}


def test_netcdf_variables_of_quantities_say_how_they_are_reduced(mlp_run, tmp_path):
    measure = ["weights", "active_fraction", "structural_change_l2_previous", "quantitative_change_l2_previous"]
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", measure=measure, noise="none")
    result = regime_proto.analyze(path, resamples=0)
    found = opened(exported(result, "netcdf"), "netcdf4", tmp_path)
    meanings = [variable.attrs["long_name"] for variable in found.variables.values()]
    assert len(set(meanings)) == len(meanings)
    for name, reduction in (
        ("weight_norm_l2", "root_sum_squares over tensor"),
        ("weight_dot_first", "sum over tensor"),
        ("active_fraction", "mean over layer"),
        ("structural_share_previous", "mean over sample"),
        ("cosine_distance_first", "see definition"),
    ):
        said, expected = found[f"quantity_{name}"].attrs, result.curves[f"quantity_{name}"].attrs
        assert said["reduction"] == reduction, name
        assert said.get("against", "") == expected["against"]
        assert said["definition"] == expected["definition"]
        assert said["units"] == expected["units"]
    assert found["quantity_weight_norm_l2_each"].attrs["reduction"] == "none"
    assert found["quantity_weight_norm_l2"].attrs["start"] == result.quantities["weight_norm_l2"].first
    assert "start" not in found["quantity_weight_norm_l2_each"].attrs


@pytest.mark.skipif(shutil.which("ncdump") is None, reason="ncdump is not installed")
def test_ncdump_reads_the_file(result, tmp_path):
    (tmp_path / "curves.nc").write_bytes(exported(result, "netcdf"))
    done = subprocess.run(["ncdump", tmp_path / "curves.nc"], capture_output=True, text=True, check=True)
    assert "layer_pattern_change(step, layer)" in done.stdout
    assert 'layer = "relu_0", "relu_1", "relu_2", "relu_3" ;' in done.stdout


def test_any_layer_name_survives(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=7, layers=len(NAMES), path=tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file["layer"][...] = NAMES
    result = regime_proto.analyze(path)
    found = [row["layer"] for row in rows(exported(result, "csv")) if row["series"] == "layer_pattern"]
    assert found == NAMES * 7
    assert json.loads(exported(result, "json"))["curves"]["layer"] == NAMES
    for engine in ("h5netcdf", "netcdf4"):
        assert opened(exported(result, "netcdf"), engine, tmp_path)["layer"].to_numpy().tolist() == NAMES


ANY_NAME = given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


@settings(max_examples=25)
@ANY_NAME
def test_any_text_is_one_field(small, name):
    assert_one_field(small, name)


@pytest.mark.slow
@ANY_NAME
def test_any_of_many_texts_is_one_field(small, name):
    assert_one_field(small, name)


def assert_one_field(small, name):
    result = regime_proto.analyze(small.assign_coords(layer=np.array([name], object)), resamples=0)
    found = rows(exported(result, "csv"))
    assert [row["layer"] for row in found] == [""] * 12 + [csv_cell(name)] * 6


def test_undefined_is_empty_null_or_nan(tmp_path):
    result = undefined()
    expected = result.curves["layer_pattern_normalised"].to_numpy()
    assert np.isnan(expected).all()
    assert np.isnan(result.curves["layer_pattern_change"].to_numpy()).any(axis=0).tolist() == [False, True]
    found = rows(exported(result, "csv"))
    assert all(row["normalised"] == "" for row in found)
    assert [row["change"] == "" for row in found if row["series"] == "layer_pattern"] == [False, True] * 9
    in_json = json.loads(exported(result, "json"), parse_constant=refuse_constant)
    assert in_json["rho"] is None
    assert in_json["curves"]["layer_pattern_normalised"] == [[None, None]] * 9
    assert in_json["curves"]["layer_pattern_change"][0] == [1.0, None]
    in_netcdf = opened(exported(result, "netcdf"), "netcdf4", tmp_path)
    assert np.isnan(in_netcdf.attrs["rho"])
    assert "rho_range" not in in_netcdf.attrs
    xr.testing.assert_equal(in_netcdf, result.curves)


def test_csv_is_written_row_by_row(result):
    class Lines(io.RawIOBase):
        largest = 0

        def write(self, data):
            self.largest = max(self.largest, len(data))
            return len(data)

    lines = Lines()
    write_csv(result, lines)
    assert 0 < lines.largest < 200


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_holds_what_python_writes(path, tmp_path, form):
    output = tmp_path / "new folder" / "curves"
    done = regime(
        "export", path, "--to", form, "-o", output, "--preset", "strict", "--steps", "5:40", "--batches-per-epoch", "10"
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert done.stderr == f"wrote {output}\n"
    result = regime_proto.analyze(path, preset="strict", steps="5:40", batches_per_epoch=10)
    assert result.window == 3
    assert output.read_bytes() == exported(result, form)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_standard_output_is_the_default(path, form):
    done = regime("export", path, "--to", form)
    assert done.stderr == ""
    assert done.stdout_bytes == exported(regime_proto.analyze(path), form)


def test_warnings_are_beside_the_table(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=9, path=tmp_path / "run.h5")
    done = regime("export", path, "--to", "csv")
    assert "warning: the curves are not smoothed" in done.stderr
    assert "warning" not in done.stdout
    assert regime("export", path, "--to", "csv", "--quiet").stderr == ""
    assert "not smoothed" in json.loads(regime("export", path, "--to", "json").stdout)["warnings"][0]


def test_a_reader_that_stops_early_is_no_bug(path):
    exporting = subprocess.Popen(
        [REGIME, "export", path, "--to", "csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    exporting.stdout.close()
    assert exporting.communicate()[1] == b""
    assert exporting.returncode == 1


def a_directory(folder):
    return folder


def nothing(folder):
    return folder / "none.h5"


def a_text(folder):
    (folder / "notes.md").write_text("mine")
    return folder / "notes.md"


def another_hdf5(folder):
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"] = 1
    return folder / "other.h5"


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        (a_directory, "a directory; expected a trajectory file: create one with `regime convert"),
        (nothing, "none.h5: no such file or directory"),
        (a_text, "notes.md: expected a trajectory, which is an HDF5 file, found another kind of file"),
        (another_hdf5, "other.h5: /@regime_version: .*, found none: an HDF5 file, but not a trajectory"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_other_sources_are_refused(tmp_path, source, pattern, form):
    output = tmp_path / "curves"
    assert_one_line(regime("export", source(tmp_path), "--to", form, "-o", output), pattern)
    assert not output.exists()


def test_netcdf_needs_a_file(path):
    assert_one_line(
        regime("export", path, "--to", "netcdf"), "--to netcdf: a binary format needs an output file; give -o FILE"
    )


@pytest.mark.parametrize("arguments", [[], ["--to", "xls"], ["--to", "csv", "--preset", "best"]])
def test_usage_errors(path, arguments):
    assert regime("export", path, *arguments).exit_code == 2


@pytest.mark.parametrize("form", FORMATS)
def test_another_output_is_replaced_only_when_told(path, tmp_path, form):
    output = tmp_path / "curves"
    mine = exported(regime_proto.analyze(path, preset="strict"), form)
    output.write_bytes(mine)
    refused = regime("export", path, "--to", form, "-o", output)
    assert_one_line(refused, "curves: exists and differs; replace it with --overwrite")
    assert output.read_bytes() == mine
    assert regime("export", path, "--to", form, "-o", output, "--overwrite").exit_code == 0
    assert output.read_bytes() == exported(regime_proto.analyze(path), form)


@pytest.mark.parametrize("form", FORMATS)
def test_an_equal_output_is_left_as_it_is(path, tmp_path, form):
    output = tmp_path / "curves"
    arguments = ("export", path, "--to", form, "-o", output)
    regime(*arguments)
    before = output.stat()
    again = regime(*arguments)
    assert again.exit_code == 0
    assert "nothing changed" in again.stderr
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_another_kind_are_never_replaced(path, tmp_path, form):
    """Checkpoints and trajectories among them."""
    torch.save({"w": torch.zeros(3)}, tmp_path / "mine.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "mine.npz", w=np.zeros(3))
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "mine.safetensors")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"w": 3}, protocol=0))
    regime_proto.synthetic.trajectory(steps=9, path=tmp_path / "mine.h5")
    (tmp_path / "mine.msgpack").write_bytes(b"\x81\xa1w\xc7\x03")
    for output in tmp_path.iterdir():
        before = output.read_bytes()
        refused = regime("export", path, "--to", form, "-o", output, "--overwrite")
        assert_one_line(refused, "it is not replaced: choose another output")
        assert output.read_bytes() == before


def test_the_trajectory_is_never_replaced(path, tmp_path):
    before = path.read_bytes()
    (tmp_path / "link.h5").symlink_to(path)
    for output in (path, tmp_path / "link.h5"):
        refused = regime("export", path, "--to", "netcdf", "-o", output, "--overwrite")
        assert_one_line(refused, "an input of this command; choose another output")
    assert path.read_bytes() == before


def test_an_output_that_cannot_be_written(path, tmp_path):
    assert_one_line(regime("export", path, "--to", "csv", "-o", tmp_path), "not a file; choose another output")
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "curves.csv"
    assert_one_line(regime("export", path, "--to", "csv", "-o", below), r"curves.csv: cannot be written \(")


def test_a_failed_write_leaves_the_old_file(path, tmp_path, monkeypatch):
    output = tmp_path / "out" / "curves.csv"
    output.parent.mkdir()
    output.write_text("mine")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused = regime("export", path, "--to", "csv", "-o", output, "--overwrite")
    assert_one_line(refused, r"curves.csv: cannot be written \(No space left on device\)")
    assert output.read_text() == "mine"
    assert list(output.parent.iterdir()) == [output]


def test_the_command_offers_every_format():
    [to] = [parameter for parameter in main.commands["export"].params if parameter.name == "form"]
    assert set(to.type.choices) == FORMATS.keys()
