"""Trajectories from elsewhere: what is accepted, what is read, and at what cost; the corpus is in its own module."""

import json
import os
import shutil
import zlib
from pathlib import Path

import children
import h5py
import numpy as np
import pytest
import trajectories
import xarray as xr
from commands import assert_one_line, regime

import regime_proto
from regime_proto.adapters.from_keras import adapter as from_keras
from regime_proto.checkpoints.payload import TOP
from regime_proto.schema import layout, validate
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.limits import Limit
from regime_proto.schema.reader import open_checked, read_metrics
from regime_proto.schema.segments import Segments
from regime_proto.schema.validation import guard, trust
from regime_proto.schema.writer import TrajectoryWriter


@pytest.fixture
def run(valid, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copy(valid, tmp_path / "run.h5"))


def cut_short(stored):
    stored.id.write_direct_chunk((0,) * stored.ndim, zlib.compress(bytes(8)))


@pytest.mark.parametrize(("each", "least"), [("2", 25), pytest.param("", 1400, marks=pytest.mark.slow)])
def test_hostile_trajectories_do_no_harm(tmp_path, each, least):
    """None is accepted wrongly or changes a number, crashes, ends in a traceback, or takes 10 s or 1 GB."""
    code = "import sys, hostile_trajectories; hostile_trajectories.main(*sys.argv[1:])"
    done = children.run(code, tmp_path, each, timeout=3600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["harm"] == []
    assert set(found["counts"]) == {"refused", "read"}
    assert found["cases"] >= least


@pytest.mark.parametrize("options", [{}, {"sampled": True}, {"policy": "none"}, {"count": 1}])
def test_a_data_set_is_what_xarray_makes_of_the_file(tmp_path, options):
    path = trajectories.write(tmp_path / "run.h5", **options)
    with h5py.File(path, "r+") as file:
        file.attrs["noise_floor"] = 1.5
        file["flips"].attrs.update({"of ours": [1.0, 2.0], "names": ["a", "b"], "fixed": np.bytes_(b"abc"), "one": [3]})
    with regime_proto.open_trajectory(path) as found, xr.open_dataset(path, engine="h5netcdf") as expected:
        xr.testing.assert_identical(found, expected)
        assert {*found.variables} == {*expected.variables}
        assert found.encoding == expected.encoding
        for name in expected.variables:
            assert found[name].dtype == expected[name].dtype
            assert found[name].encoding == expected[name].encoding


@pytest.mark.parametrize(
    ("name", "value"),
    [("missing_value", 0), ("scale_factor", 2.0), ("units", "days since 2000-01-01"), ("dtype", "bool")],
)
def test_attributes_change_no_number(valid, run, name, value):
    with h5py.File(run, "r+") as file:
        file["step"].attrs[name] = value
    assert "variable-decoded" in [problem.rule for problem in validate(run)]
    # Even where somebody takes it for sound.
    trust.record(run)
    assert regime_proto.analyze(run, resamples=0).rho == regime_proto.analyze(valid, resamples=0).rho


def test_unknown_variables_are_left_out(run):
    with h5py.File(run, "r+") as file:
        file["novelty"] = np.zeros((3, 4))
    with pytest.warns(regime_proto.RegimeWarning, match="/novelty"), regime_proto.open_trajectory(run) as opened:
        assert "novelty" not in opened


def test_a_metric_whose_name_is_not_told_goes_by_its_variable(run):
    with h5py.File(run, "r+") as file:
        file["metric_val_acc"].attrs["long_name"] = "loss"
        losses = file["metric_loss"][...]
    with pytest.warns(regime_proto.RegimeWarning, match="read as 'val_acc'"), open_checked(run) as file:
        assert read_metrics(file) == ("loss", "val_acc")
    assert regime("thin", "--masks", "none", "-o", run.with_name("thinned.h5"), run).exit_code == 0
    with h5py.File(run.with_name("thinned.h5")) as thinned:
        np.testing.assert_array_equal(thinned["metric_loss"], losses)
        assert np.isnan(thinned["metric_val_acc"]).all()


def test_masks_that_are_checked_later_are_checked_before_they_are_read(run):
    with h5py.File(run, "r+") as file:
        cut_short(file["mask"])
    trust.record(run, trust.Record(trust.state_of(run), defers=True))
    with regime_proto.open_trajectory(run) as opened:
        assert opened["flips"].to_numpy().any()
        opened["mask"][:, 1].to_numpy()
        with pytest.raises(regime_proto.TrajectoryError, match="chunk-inflated"):
            opened["mask"].to_numpy()


@pytest.mark.parametrize("filters", [{"compression": 4}, {"compression": 4, "shuffle": True, "fletcher32": True}])
def test_chunks_of_a_keras_file_are_inflated_before_they_are_read(tmp_path, filters):
    path = tmp_path / "model.weights.h5"
    values = np.random.default_rng(0).random((40, 100))
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=values, chunks=(40, 100), **filters)
        file.create_dataset("layers/dense/vars/1", data=values)
    found = from_keras.read(path).groups[TOP]["layers.dense.vars.0"]
    np.testing.assert_array_equal(found, values)
    with h5py.File(path, "r+") as file:
        cut_short(file["layers/dense/vars/0"])
    with pytest.raises(RegimeError, match=r"refused: /layers/dense/vars/0 .*32,000 bytes"):
        from_keras.read(path)


@pytest.mark.parametrize("who", ["record", "folder", "owner"])
def test_records_of_others_are_not_believed(run, monkeypatch, tmp_path, who):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trust.record(run)
    assert trust.is_trusted(run)
    place = trust._place(run)
    if who == "owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(place, 12345, -1)
    else:
        (place if who == "record" else place.parent).chmod(0o777)
    assert not trust.is_trusted(run)


def test_a_record_does_not_depend_on_the_umask(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        trust.record(run)
    finally:
        os.umask(before)
    assert trust.is_trusted(run)


@pytest.mark.parametrize("back", [False, True])
def test_what_is_replaced_while_it_is_checked_is_not_trusted(run, tmp_path, monkeypatch, back):
    """What was looked at is the file that was there, whatever stands under its name before or after."""
    other, away = tmp_path / "other.h5", tmp_path / "away.h5"
    shutil.copy(run, other)
    with h5py.File(run, "r+") as file:
        cut_short(file["flips"])
    really = guard.run_child

    def replaced(*given):
        run.rename(away)
        other.rename(run)
        try:
            return really(*given)
        finally:
            if back:
                run.rename(other)
                away.rename(run)

    monkeypatch.setattr(guard, "run_child", replaced)
    with pytest.raises(regime_proto.TrajectoryError, match=r"changed while it was checked|chunk-inflated"):
        regime_proto.open_trajectory(run)
    assert not trust.is_trusted(run)


def test_what_is_replaced_after_the_check_is_not_read(run, tmp_path, monkeypatch):
    other = Path(shutil.copy(run, tmp_path / "other.h5"))
    known = guard.require_checked(run)
    other.replace(run)
    monkeypatch.setattr("regime_proto.schema.reader.require_checked", lambda path: known)
    with pytest.raises(regime_proto.TrajectoryError, match="changed since it was checked"):
        regime_proto.analyze(run, resamples=0)


def interrupted(folder):
    head = trajectories.header(policy="all")
    with Segments(folder / "run.h5") as segments:
        writer = TrajectoryWriter(segments, head)
        for row in trajectories.observations(head, 70):
            writer.append(row, fingerprint="f")
        writer.flush()
    return folder / "run.h5.segments"


def test_segments_from_elsewhere_pass_the_gate(tmp_path):
    folder = interrupted(tmp_path)
    with h5py.File(folder / "000001.h5", "r+") as file:
        for name in ("flips", "mask", "epoch"):
            del file[name].attrs["DIMENSION_LIST"]
            file[name].attrs["DIMENSION_LIST"] = np.arange(file[name].ndim)
    assert_one_line(regime("merge", folder), r"000001.h5: a damaged segment \(.*delete it and those after it")
    (folder / "000001.h5").unlink()
    assert regime("merge", folder).exit_code == 0
    assert validate(tmp_path / "run.h5") == []


def test_segments_cut_short_are_not_published(tmp_path):
    folder = interrupted(tmp_path)
    with h5py.File(folder / "000000.h5", "r+") as file:
        cut_short(file["flips"])
    assert_one_line(regime("merge", folder), r"000000.h5: a damaged segment \(/flips: .*chunk-inflated")
    assert not (tmp_path / "run.h5").exists()


def test_segments_of_this_machine_cost_no_process(tmp_path, monkeypatch):
    folder = interrupted(tmp_path)

    def never(*given):
        raise AssertionError(f"a child process: {given}")

    monkeypatch.setattr(guard, "run_child", never)
    assert regime("merge", folder).exit_code == 0
    assert trust.is_trusted(tmp_path / "run.h5")


def test_a_segment_is_one_only_where_segments_are(tmp_path):
    folder = interrupted(tmp_path)
    assert validate(folder / "000001.h5") == []
    shutil.copy(folder / "000001.h5", tmp_path / "copy.h5")
    assert {problem.rule for problem in validate(tmp_path / "copy.h5")} == {"first-row"}


@pytest.mark.parametrize("sizes", [[2**62, 2**62], [2**63 - 1, 1]])
def test_sizes_that_overflow_do_not_turn_the_curve_over(run, sizes):
    with h5py.File(run, "r+") as file:
        file["tensor_size"][...] = sizes
        sums = file["weight_delta_l1"][1:].sum(axis=1)
    result = regime_proto.analyze(run, resamples=0)
    np.testing.assert_allclose(result.curves["weight_change"], sums / 2.0**63)


@pytest.mark.parametrize("text", ["no", "-3", "0", "1.5", "\u0665"])
def test_a_limit_is_a_positive_number(monkeypatch, run, text):
    monkeypatch.setenv("REGIME_LIMIT_MEMORY", text)
    assert_one_line(regime("analyze", run), "REGIME_LIMIT_MEMORY=.*: expected a positive number")


def test_a_limit_says_how_to_raise_it(monkeypatch):
    limit = Limit("THINGS", 10, "things")
    assert limit.advice(99.5) == "if you trust where it comes from, set REGIME_LIMIT_THINGS=100 (things)"
    monkeypatch.setenv("REGIME_LIMIT_THINGS", "100")
    assert limit.value == 100
    assert "=200 " in limit.advice()


@pytest.mark.slow
def test_a_probe_of_many_samples_is_no_damage(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=3, samples=70_000, units=64, path=tmp_path / "run.h5")
    assert validate(path) == []


def test_every_variable_can_be_given_any_attribute_that_is_decoded():
    """The table, of which the corpus makes its cases, holds what xarray decodes."""
    decoded = {"_FillValue", *layout.DECODED}
    assert {"missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype", "calendar"} <= decoded
    assert set(xr.conventions.CF_RELATED_DATA) <= decoded
