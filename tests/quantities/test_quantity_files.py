"""Files with quantities: of other distributions, and in the hands of readers that know none."""

import json
import os
import shutil
import signal
import subprocess
import sys

import children
import h5py
import numpy as np
import pytest
import torch
import trajectories
from folders import DATA
from recording import rows

import regime_proto
from regime_proto import RegimeWarning
from regime_proto.quantities.installed import known_quantities
from regime_proto.schema import validate
from regime_proto.schema.reader import open_checked, read_quantities
from regime_proto.schema.validation import trust

SITE = "site"

# A distribution as pip installs it: one module, one entry point.
THEIRS = '''
import numpy as np
from regime_proto.quantities.base import MASKS, Quantity


def compute(current, previous, network):
    """How many bytes of each layer's masks are not as they were."""
    stops = np.cumsum([layer.bytes for layer in network.layers])
    changed = (current.masks != previous.masks).sum(axis=0)
    return [changed[stop - layer.bytes : stop].sum() for layer, stop in zip(network.layers, stops)]


QUANTITY = Quantity(
    name="changed_bytes",
    dims=("layer",),
    meaning="bytes of the layer's masks that changed",
    definition="sum(byte_i != byte_(i-1))",
    unit="byte",
    against="previous",
    needs=(MASKS,),
    compute=compute,
    curve="sum",
)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("their") / SITE
    info = folder / "their_quantity-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-quantity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[regime_proto.quantities]\nchanged_bytes = their_quantity:QUANTITY\n")
    (folder / "their_quantity.py").write_text(THEIRS)
    return folder


def regime(site, *arguments):
    """Run the command where their distribution is installed."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from regime_proto.cli.main import main; main()"
    done = children.run(code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def measured(mlp_run, site, tmp_path_factory):
    path = tmp_path_factory.mktemp("measured") / "run.h5"
    regime(site, "convert", mlp_run, "-o", path, "--measure", "changed_bytes", "--masks", "all")
    return path


def expected(path):
    """What it measures, from the masks."""
    stored = rows(path)
    with open_checked(path) as file:
        starts, stops = file["layer_byte_start"][...], file["layer_byte_stop"][...]
    changed = (stored["mask"][1:] != stored["mask"][:-1]).sum(axis=1)
    return np.stack([changed[:, a:b].sum(axis=1) for a, b in zip(starts, stops, strict=True)], axis=1)


def test_it_is_listed(site):
    found = json.loads(regime(site, "quantities", "--json"))["quantities"]
    [theirs] = [quantity for quantity in found if quantity["name"] == "changed_bytes"]
    assert (theirs["unit"], theirs["against"], theirs["per"]) == ("byte", "previous", "step and layer")
    assert theirs["recorded"] is True
    assert theirs["variable"] == "quantity_changed_bytes"
    assert "changed_bytes" in regime(site, "quantities")


def test_without_the_distribution_it_is_not_known():
    done = children.run_regime("quantities")
    assert "changed_bytes" not in done.stdout
    assert "weight_norm_l2" in done.stdout


def test_the_list_is_short_and_a_name_tells_more():
    listed = children.run_regime("quantities").stdout
    lines = [line.split() for line in listed.splitlines()]
    for name, quantity in known_quantities().items():
        assert [line[0] for line in lines if line].count(name) == 1
        assert listed.count(quantity.cost) == 1 or quantity.is_built_in or len(quantity.cost) < 40
    assert len(lines) < 100
    told = children.run_regime("quantities", "structural_change_l2_last").stdout
    words = " ".join(told.split())
    assert "s = (f(w_j | m_i) - f(w_j | m_j) + f(w_i | m_i) - f(w_i | m_j)) / 2, the mean over the two orders" in words
    assert "recorded no" in words
    assert "variable quantity_structural_change_l2_last" in words
    assert "margin" not in told
    refused = children.run_regime("quantities", "margn")
    assert refused.returncode == 1
    assert "error: 'margn': no such quantity; did you mean margin?" in refused.stderr


def test_it_is_measured_and_the_file_is_valid_without_it(measured):
    assert validate(measured) == []
    found = rows(measured)["quantity_changed_bytes"]
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], expected(measured))
    assert expected(measured).any()


def test_it_can_be_read_analyzed_and_exported_without_it(measured, tmp_path):
    with regime_proto.open_trajectory(measured) as trajectory:
        variable = trajectory["quantity_changed_bytes"]
        assert variable.dims == ("step", "layer")
        assert variable.attrs["units"] == "byte"
    result = regime_proto.analyze(measured, resamples=0)
    assert result.quantities["changed_bytes"].last == expected(measured)[-1].sum()
    table = tmp_path / "run.csv"
    assert children.run_regime("export", measured, "--to", "csv", "-o", table).returncode == 0
    lines = [line.split(",") for line in table.read_text().splitlines()]
    found = [float(line[3]) for line in lines if line[1] == "changed_bytes" and line[2] == "node_relu"]
    np.testing.assert_array_equal(found, expected(measured)[:, 0])


def test_it_is_in_the_report(measured):
    from regime_proto.report.page.page import report

    page = report([measured], resamples=0)
    assert "Bytes of the layer&#39;s masks that changed, by layer" in page
    assert "changed_bytes, in byte: " in page


def test_it_stays_in_a_thinner_copy(measured, tmp_path):
    copy = tmp_path / "thin.h5"
    assert children.run_regime("thin", measured, "--masks", "every=2", "-o", copy).returncode == 0
    assert validate(copy) == []
    np.testing.assert_array_equal(rows(copy)["quantity_changed_bytes"], rows(measured)["quantity_changed_bytes"])
    with open_checked(copy) as one, open_checked(measured) as other:
        assert read_quantities(one) == read_quantities(other)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
import regime_proto
from regime_proto.schema import writer

writer.TrajectoryWriter.__init__.__kwdefaults__["seconds"] = 0.0
def progress(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
regime_proto.convert(sys.argv[1], sys.argv[2], measure="changed_bytes", masks="all", progress=progress)
"""


@pytest.fixture
def killed(mlp_run, site, tmp_path):
    path = tmp_path / "run.h5"
    done = children.run(KILLED, mlp_run, path, site)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return path


def test_it_goes_on_after_a_kill(killed, measured, mlp_run, site):
    regime(site, "convert", mlp_run, "-o", killed, "--measure", "changed_bytes", "--masks", "all")
    np.testing.assert_array_equal(rows(killed)["quantity_changed_bytes"], rows(measured)["quantity_changed_bytes"])


def test_what_a_killed_process_left_is_merged_without_it(killed, measured):
    done = children.run_regime("merge", f"{killed}.segments")
    assert done.returncode == 0, done.stderr
    found, whole = rows(killed)["quantity_changed_bytes"], rows(measured)["quantity_changed_bytes"]
    assert 4 <= len(found) < len(whole)
    np.testing.assert_array_equal(found, whole[: len(found)])


def test_a_run_that_grows_says_what_is_missing(measured, mlp_run, tmp_path):
    run, path = tmp_path / "checkpoints", tmp_path / "run.h5"
    shutil.copytree(mlp_run, run)
    shutil.copy(measured, path)
    trust.record(path)
    state = torch.load(run / "step_0007.pt")
    torch.save({**state, "step": 8}, run / "step_0008.pt")
    done = children.run_regime("convert", run, "-o", path)
    assert done.returncode == 1
    assert (
        "holds the quantity changed_bytes, which must be measured for new checkpoints too but is not installed here"
        in done.stderr
    )


def test_one_that_cannot_be_used_is_left_out_with_a_warning(site, tmp_path):
    broken = tmp_path / SITE
    shutil.copytree(site, broken)
    (broken / "their_quantity.py").write_text(THEIRS.replace('"changed_bytes"', '"weight_norm_l2"'))
    code = f"import sys; sys.path.insert(0, {str(broken)!r}); from regime_proto.cli.main import main; main()"
    done = children.run(code, "quantities")
    assert done.returncode == 0
    assert "quantity 'changed_bytes' (their_quantity:QUANTITY) is ignored: ValueError: the name" in done.stderr
    assert done.stdout.count("weight_norm_l2") == 1


# Readers of version 1.0

OLD = """
import json, sys, warnings
import regime_proto
from regime_proto.schema import validate

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result = regime_proto.analyze(sys.argv[1], batches_per_epoch=100, resamples=0)
modules = [module for name, module in sys.modules.items() if name.startswith("regime_proto")]
files, said = [module.__file__ for module in modules], [str(one.message) for one in caught]
found = {"where": files, "result": result.to_json(), "warnings": said}
print(json.dumps({**found, "rules": sorted({problem.rule for problem in validate(sys.argv[1])})}))
"""


def read_by_old(path):
    """Let the reader of the last release before version 1.1 read a file."""
    environment = {**os.environ, "PYTHONPATH": str(DATA / "reader-1.0.zip")}
    done = subprocess.run([sys.executable, "-P", "-c", OLD, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Nothing is taken from the version that is installed.
    assert all("reader-1.0.zip" in file for file in found["where"])
    return found


def numbers_of(result, known):
    """Return what a result holds beside its warnings, whose words may change, as far as an older one has it."""
    return {name: value for name, value in result.items() if name in known and name != "warnings"}


def test_a_reader_of_1_0_says_what_it_does_not_know_and_reads_the_rest():
    path = DATA / "v1.1.h5"
    found = read_by_old(path)
    assert found["rules"] == ["name-known", "version-minor"]
    assert any("expected format 1.0 or older, found 1.1" in text for text in found["warnings"])
    for quantity in trajectories.QUANTITIES:
        assert any(f"/quantity_{quantity.name}" in text for text in found["warnings"])
    now = regime_proto.analyze(path, batches_per_epoch=100, resamples=0).to_json()
    assert now["quantities"]
    assert numbers_of(now, found["result"]) == numbers_of(found["result"], found["result"])


@pytest.mark.parametrize("name", ["v1.0.h5", "v1.0-sampled.h5"])
def test_files_of_1_0_give_the_same_numbers_as_before(name):
    """To the last digit."""
    found = read_by_old(DATA / name)
    assert found["rules"] == []
    now = regime_proto.analyze(DATA / name, batches_per_epoch=100, resamples=0).to_json()
    assert now["quantities"] == {}
    assert numbers_of(now, found["result"]) == numbers_of(found["result"], found["result"])


def test_in_a_file_of_1_0_the_name_of_a_quantity_is_one_that_the_format_does_not_define(tmp_path):
    path = trajectories.write(tmp_path / "run.h5", quantities=())
    with h5py.File(path, "r+") as file:
        file["quantity_mine"] = np.zeros(70)
    assert {problem.rule for problem in validate(path)} == {"name-known"}
    with pytest.warns(RegimeWarning, match="/quantity_mine"), regime_proto.open_trajectory(path) as trajectory:
        assert "quantity_mine" not in trajectory
