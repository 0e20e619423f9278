"""What is said of a run, and kept in its trajectory."""

import itertools

import h5py
import netCDF4
import nets
import numpy as np
import pytest
import torch
from commands import assert_one_line, regime
from recording import extra

import regime_proto
from regime_proto import RegimeError
from regime_proto.recording.schedule import Share
from regime_proto.schema import read_notes, validate
from regime_proto.schema.files import segments_folder
from regime_proto.schema.notes import MAX_LETTERS, MAX_NOTES, ORDER_DOUBT, OWN, as_notes
from regime_proto.schema.segments import Segments

GIVEN = {"model": "MLP [red]α[/red]", "seed": 3, "learning_rate": 0.1, "augmented": True, "mine_2": "a=b\nc"}
KEPT = {**GIVEN, "augmented": 1}
ARGUMENTS = ["--note", "model=MLP", "--note", "learning_rate=0.1", "--note", "of=a = b", "--note", "empty="]
SAID = {"model": "MLP", "learning_rate": "0.1", "of": "a = b", "empty": ""}


@pytest.fixture(scope="module")
def noted(mlp_run, tmp_path_factory):
    return regime_proto.convert(mlp_run, tmp_path_factory.mktemp("noted") / "run.h5", notes=GIVEN)


def values(path):
    with h5py.File(path) as file:
        return {name: file[name].asstr()[...] if file[name].dtype.kind == "O" else file[name][...] for name in file
                if name != "extra"}  # fmt: skip


def test_notes_are_read_as_they_were_given(noted):
    found = read_notes(noted)
    assert found == KEPT
    assert [type(value) for value in found.values()] == [str, int, float, int, str]
    with h5py.File(noted) as file:
        assert read_notes(file) == found
    assert not validate(noted)


def test_inspect_tells_them(noted):
    shown = regime("inspect", noted).stdout
    assert "model: MLP [red]α[/red]" in shown
    assert "learning_rate: 0.1" in shown


def test_notes_on_the_command_line(mlp_run, tmp_path):
    path = tmp_path / "run.h5"
    assert regime("convert", mlp_run, "-o", path, *ARGUMENTS).exit_code == 0
    assert read_notes(path) == SAID
    before = path.stat().st_mtime_ns
    again = regime("analyze", mlp_run, "-o", path, "--note", "model=MLP")
    assert "nothing changed; using" in again.stderr
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("begun", [{}, {"seed": 3, "model": "CNN"}])
def test_a_finished_trajectory_gets_them_and_nothing_else_changes(mlp_run, tmp_path, begun):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", notes=begun)
    before = values(path)
    result = regime("analyze", mlp_run, "-o", path, *ARGUMENTS)
    assert "only the notes changed; using" in result.stderr
    assert read_notes(path) == begun | SAID
    assert not validate(path)
    for name, array in values(path).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not segments_folder(path).exists()
    # Libraries of netCDF can still append to it.
    with netCDF4.Dataset(path, "a") as opened:
        opened["extra"].setncattr("more", "said")
    assert read_notes(path) == begun | SAID | {"more": "said"}


def test_a_finished_trajectory_gets_the_length_of_an_epoch(run, tmp_path):
    path, aside = tmp_path / "run.h5", (run / "step_0007.pt").rename(tmp_path / "aside.pt")
    regime_proto.convert(run, path)
    before = values(path)
    given = ["convert", run, "-o", path, "--batches-per-epoch", "2"]
    assert f"write the batches per epoch into {path}" in regime(*given, "--dry-run").stderr
    assert "only the batches per epoch changed; using" in regime(*given).stderr
    assert "nothing changed; using" in regime(*given).stderr
    assert not validate(path)
    for name, array in values(path).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    with h5py.File(path) as file:
        assert file.attrs["observations_per_epoch"] == 2
    assert not any("not smoothed" in warning for warning in regime_proto.analyze(path).warnings)
    # New checkpoints leave it as it is.
    aside.rename(run / "step_0007.pt")
    regime_proto.convert(run, path)
    with h5py.File(path) as file:
        assert file.attrs["observations_per_epoch"] == 2


def test_a_trajectory_that_another_process_writes_gets_none(mlp_run, noted):
    content = noted.read_bytes()
    with Segments(noted), pytest.raises(RegimeError, match="another process is writing it"):
        regime_proto.convert(mlp_run, noted, notes={"seed": 4})
    assert noted.read_bytes() == content


@pytest.mark.parametrize("masks", ["all", "every=2"])
def test_a_run_that_has_grown_keeps_its_notes(run, tmp_path, masks):
    path = tmp_path / "run.h5"
    aside = (run / "step_0007.pt").rename(tmp_path / "aside.pt")
    regime_proto.convert(run, path, notes={"model": "MLP", "seed": 3})
    aside.rename(run / "step_0007.pt")
    regime_proto.convert(run, path, notes={"seed": 4}, masks=masks)
    assert read_notes(path) == {"model": "MLP", "seed": 4}


def test_many_notes_fit(mlp_run, noted, tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(noted.read_bytes())
    many = {f"note_{number}": "é" * 10 for number in range(MAX_NOTES)}
    regime_proto.convert(mlp_run, path, notes=many)
    assert read_notes(path) == KEPT | many
    assert not validate(path)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"learning rate": 1}, "note 'learning rate': expected a name of ASCII letters, digits and _"),
        ({"": 1}, "note '': expected a name"),
        ({"é": 1}, "note 'é': expected a name"),
        ({"seed\n": 1}, r"note 'seed\\n': expected a name"),
        ({5: 1}, "note 5: expected a name"),
        ({"probe_seed": 1}, "note probe_seed: regime itself uses this name"),
        ({"seed": None}, "note seed: expected text, a number or a bool, found NoneType"),
        ({"seed": [1]}, "note seed: expected text, a number or a bool, found list"),
        ({"seed": 2**63}, "note seed: 9223372036854775808 does not fit into 64 bits"),
        ({"model": "a\0b"}, "note model: found .*, expected valid Unicode text without NUL"),
        ({"model": "\udcff"}, "note model: found .*, expected valid Unicode text without NUL"),
        ({"model": "x" * MAX_LETTERS}, "1 notes: expected at most 500, with 64,000 characters in total"),
        ({f"n{number}": 0 for number in range(MAX_NOTES + 1)}, "501 notes: expected at most 500"),
    ],
)
def test_what_cannot_be_kept_is_refused(notes, said):
    with pytest.raises(RegimeError, match=said) as raised:
        as_notes(notes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--note", "seed"], "--note 'seed': expected KEY=VALUE, for example"),
        (["--note", "seed=1", "--note", "seed=2"], "--note seed: given twice, '1' and '2'"),
        (["--note", "settled_at_step=1"], "note settled_at_step: regime itself uses this name"),
        (["--note", "=1"], "note '': expected a name"),
    ],
)
def test_wrong_notes_on_the_command_line_are_one_line(mlp_run, tmp_path, arguments, said):
    assert_one_line(regime("convert", mlp_run, "-o", tmp_path / "run.h5", *arguments), said)
    assert list(tmp_path.iterdir()) == []


def test_a_trajectory_file_is_only_read_by_analyze(noted):
    assert_one_line(regime("analyze", noted, "--note", "seed=1"), "--note applies only to a directory of checkpoints")


def test_a_recording_keeps_notes_and_its_own_apart(tmp_path):
    path = tmp_path / "run.h5"
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    loader = [(torch.from_numpy(nets.probe(nets.make_mlp())), torch.zeros(6))]
    options = {"loader": loader, "batch_size": 15, "settling": regime_proto.Settling(threshold=0.5, window=1)}
    options["every"] = Share(0.5, clock=itertools.count().__next__)
    with pytest.raises(RegimeError, match="note probe_drawn: regime itself uses"):
        regime_proto.record(model, "auto", path, notes={"probe_drawn": 1}, **options)
    with regime_proto.record(model, "auto", path, notes={"seed": 3, "model": "MLP"}, **options) as recorder:
        for step in range(40):
            with torch.no_grad():
                model[0].weight.mul_(-1 if step == 1 else 1)
            recorder.observe(step)
        assert recorder.status().settled_at is not None
        last = recorder.status().step
    with regime_proto.record(model, "auto", path, notes={"seed": 4}, resume=last, **options) as recorder:
        recorder.observe(last)
        recorder.observe(last + 1)
        recorder.observe(last + 100)
    assert read_notes(path) == {"seed": 4, "model": "MLP"}
    assert extra(path).keys() - read_notes(path).keys() == OWN - {ORDER_DOUBT}


def test_what_others_put_there_is_passed_over(noted, tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(noted.read_bytes())
    with h5py.File(path, "r+") as file:
        file["extra"].attrs["array"] = np.arange(3)
        file["extra"].attrs["yes"] = np.uint8(1)
    assert read_notes(path) == KEPT | {"yes": 1}
