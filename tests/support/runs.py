"""Made-up trajectories of several runs, as somebody would compare them."""

import tempfile

import h5py

import regime_proto
from regime_proto.schema.validation import trust

MLP = {"model": "MLP", "dataset": "Adult", "family": "MLP"}
LENET = {"model": "LeNet_5", "dataset": "MNIST & co", "family": "convolutional"}


def make_run(path, *, notes=None, program=None, stride=1, values=None, steps=30, units=64, **given):
    """Write a trajectory with notes, and other values in place of some of its variables and attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    regime_proto.synthetic.trajectory(steps=steps, units=units, layers=2, samples=4, path=path, **given)
    with h5py.File(path, "r+") as file:
        group = file.create_group("extra", track_order=True)
        group.attrs.update(notes or {})
        if program is not None:
            file.attrs["program_sha256"] = program
        for name in ("step", "mask_step"):
            file[name][...] = file[name][...] * stride
        for name, array in (values or {}).items():
            file[name][...] = array
    trust.record(path)
    return path


def make_runs(folder):
    """Write three runs of one network that differ in the seed, and one of another network."""
    per_epoch = {"observations_per_epoch": 6.0, "noise": 0.2}
    repeats = [
        make_run(folder / f"mlp-{seed}.h5", notes={**MLP, "seed": seed}, program="a" * 64, seed=seed, **per_epoch)
        for seed in range(3)
    ]
    other = make_run(folder / "lenet.h5", notes=LENET, program="b" * 64, patterns="hyperbolic", **per_epoch)
    return [*repeats, other]


def synthetic(**options):
    """Return a synthetic trajectory as a data set of its own, read by `open_trajectory`.

    `regime_proto.synthetic.trajectory` returns the same, read by a library of netCDF that takes four times as long.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = regime_proto.synthetic.trajectory(**options, path=f"{folder}/run.h5")
        with regime_proto.open_trajectory(path) as opened:
            loaded = opened.load()
    del loaded.encoding["source"]
    return loaded
