"""Which observations keep their masks: chosen when a run is converted, or later; numbers never depend on it."""

import h5py
import numpy as np
import pytest
import trajectories
from commands import assert_one_line, regime

import regime_proto
from regime_proto.schema import policy, validate
from regime_proto.schema.assemble import thin
from regime_proto.schema.policy import MaskPolicy, fitting_policy, parse_policy


@pytest.mark.parametrize("text", ["all", "none", "every=7"])
def test_a_policy_is_written_as_it_is_read(text):
    assert str(parse_policy(text)) == text


@pytest.mark.parametrize("text", ["", "some", "every", "every=", "every=0", "every=-1", "every=1.5", "every=²", "auto"])
def test_other_words_are_refused(text):
    with pytest.raises(regime_proto.RegimeError, match="expected all, every=N or none"):
        parse_policy(text)


@pytest.mark.parametrize("every", [0, 1, 2, 7, 100])
def test_a_policy_counts_what_it_keeps(every):
    chosen = MaskPolicy(every)
    for observations in range(1, 40):
        kept = [number for number in range(observations) if chosen.keeps(number)]
        assert len(kept) == chosen.count(observations)


def test_auto_keeps_all_until_the_file_would_be_too_large():
    assert fitting_policy(0, policy.AUTO_BYTES) == MaskPolicy(1)
    assert fitting_policy(0, policy.AUTO_BYTES + 1) == MaskPolicy(2)
    assert fitting_policy(policy.AUTO_BYTES // 2, policy.AUTO_BYTES) == MaskPolicy(2)
    # Never none: the masks of the first observation at least.
    assert fitting_policy(2 * policy.AUTO_BYTES, 100).every >= 1


@pytest.fixture(scope="module")
def complete(mlp_run, tmp_path_factory):
    return regime_proto.convert(mlp_run, tmp_path_factory.mktemp("complete") / "run.h5")


def assert_thinned(path, complete, every):
    """`path` differs from `complete` in nothing but the masks left out."""
    assert validate(path) == []
    with h5py.File(path) as found, h5py.File(complete) as whole:
        assert found.attrs["mask_policy"] == str(MaskPolicy(every))
        steps = whole["step"][:: every or 10**9][: None if every else 0]
        np.testing.assert_array_equal(found["mask_step"][...], steps)
        rows = np.flatnonzero(np.isin(whole["mask_step"][...], steps))
        np.testing.assert_array_equal(found["mask"][...], whole["mask"][...][rows])
        for name in whole:
            if name not in ("mask", "mask_step"):
                np.testing.assert_array_equal(found[name][...], whole[name][...], err_msg=name)
    assert regime_proto.analyze(path).rho == regime_proto.analyze(complete).rho


@pytest.mark.parametrize("every", [0, 1, 2, 3, 100])
def test_a_conversion_keeps_what_it_is_told_to(mlp_run, complete, tmp_path, every):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", masks=str(MaskPolicy(every)))
    assert_thinned(path, complete, every)


@pytest.mark.parametrize("every", [0, 2, 3, 100])
def test_a_trajectory_is_thinned_later(complete, tmp_path, every):
    thin(complete, tmp_path / "small.h5", MaskPolicy(every))
    assert_thinned(tmp_path / "small.h5", complete, every)


def test_what_is_left_out_can_not_come_back(complete, tmp_path):
    thin(complete, tmp_path / "thin.h5", MaskPolicy(2))
    thin(tmp_path / "thin.h5", tmp_path / "thinner.h5", MaskPolicy(4))
    assert_thinned(tmp_path / "thinner.h5", complete, 4)
    with pytest.raises(regime_proto.TrajectoryError, match="every=2, which lacks masks that every=3 keeps"):
        thin(tmp_path / "thin.h5", tmp_path / "other.h5", MaskPolicy(3))
    assert not (tmp_path / "other.h5").exists()


def test_a_long_thinned_run_is_joined_across_segments(tmp_path):
    """Segments hold some masks each, and chunks of the joined file more than one segment's."""
    from regime_proto.schema.segments import Segments
    from regime_proto.schema.writer import TrajectoryWriter

    head = trajectories.header(policy="every=3")
    rows = list(trajectories.observations(head, 400))
    path = tmp_path / "run.h5"
    with Segments(path) as segments, TrajectoryWriter(segments, head) as writer:
        for row in rows:
            writer.append(row, fingerprint="f")
    assert validate(path) == []
    with h5py.File(path) as found:
        assert found["mask"].chunks[0] == 64
        np.testing.assert_array_equal(found["mask"][...], [row.mask for row in rows[::3]])
        np.testing.assert_array_equal(found["flips"][...], [row.flips for row in rows])


def test_what_stands_under_extra_is_kept(tmp_path):
    path = trajectories.write(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file["extra/notes"] = [1, 2, 3]
        file["extra"].attrs["by"] = "us"
    thin(path, tmp_path / "small.h5", MaskPolicy(5))
    assert validate(tmp_path / "small.h5") == []
    with h5py.File(tmp_path / "small.h5") as file:
        assert file["extra/notes"][...].tolist() == [1, 2, 3]
        assert file["extra"].attrs["by"] == "us"


def test_auto_thins_and_says_so(mlp_run, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "AUTO_BYTES", 46_400)
    found = regime("convert", mlp_run, "-o", tmp_path / "run.h5")
    assert found.exit_code == 0
    assert "masks: every=" in found.stderr
    assert "--masks all would take about" in found.stderr
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["mask_policy"].startswith("every=")
        assert file.attrs["mask_policy_requested"] == "auto"
        assert file.attrs["predicted_bytes"] < 60_000
    assert validate(tmp_path / "run.h5") == []


def test_masks_that_are_there_are_not_lost_by_another_choice(mlp_run, complete, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    before = path.read_bytes()
    refused = regime("convert", mlp_run, "-o", path, "--masks", "none")
    assert_one_line(refused, "exists with masks all, but none was requested; replace it with --overwrite")
    assert path.read_bytes() == before
    assert regime("convert", mlp_run, "-o", path, "--masks", "none", "--overwrite").exit_code == 0
    assert_thinned(path, complete, 0)
    # Whoever does not care takes what is there.
    assert "nothing changed" in regime("convert", mlp_run, "-o", path).stderr


def test_a_wrong_policy_is_one_line(mlp_run, complete, tmp_path):
    assert_one_line(
        regime("convert", mlp_run, "-o", tmp_path / "a.h5", "--masks", "half"), "masks 'half': expected all"
    )
    assert_one_line(regime("thin", complete, "-o", tmp_path / "a.h5", "--masks", "auto"), "masks 'auto': expected all")
    assert list(tmp_path.iterdir()) == []
