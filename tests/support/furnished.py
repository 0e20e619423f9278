"""What README and manual speak of, laid out for the tests: checkpoints, probes, trajectories, models."""

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

import nets
import numpy as np
import torch
from commands import regime
from nets import save_run
from reading import assert_same
from trainings import save_walk

import regime_proto
from regime_proto.conversion.plan import write_program


@functools.cache
def demo():
    """Return the folder of ``regime demo --out demo-run``; it is made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="regime-demo-"))
    with contextlib.chdir(folder):
        done = regime("demo", "--out", "demo-run")
    assert done.exit_code == 0, done.output
    return folder / "demo-run"


def own_run(folder):
    """Lay out a run: checkpoints/, another one, a probe, and mypkg.net:make."""
    save_run(folder / "checkpoints", nets.make_mlp(), states=24)
    other = nets.make_mlp()
    torch.nn.init.normal_(next(other.parameters()))
    save_run(folder / "other-run", other)
    np.savez(folder / "val.npz", nets.probe(nets.make_mlp()))
    (folder / "mypkg").mkdir()
    (folder / "mypkg/__init__.py").touch()
    shutil.copy(Path(nets.__file__), folder / "mypkg/net.py")
    with (folder / "mypkg/net.py").open("a") as file:
        file.write("\nmake = make_mlp\n")


def described_run(folder, name="checkpoints"):
    """Lay out a run whose directory holds its program and probe."""
    save_run(folder / name, nets.make_mlp(), states=24)
    write_program(folder / name, model=nets.make_mlp(), probe=nets.probe(nets.make_mlp()))


def _two_runs(folder):
    for name in ("runs/a", "runs/b"):
        described_run(folder, name)


def copy_of_the_demo(folder):
    shutil.copytree(demo(), folder / "demo-run")


def _one_trajectory(folder):
    described_run(folder)
    regime_proto.convert(folder / "checkpoints", folder / "run.h5")


def training():
    """Return what a loop of PyTorch has: a network, a probe, a loader and a function that trains."""
    net = nets.make_mlp()
    loader = [(torch.randn(8, 12), torch.randint(0, 3, (8,))) for _ in range(6)]

    def train_step(inputs, labels):
        loss = torch.nn.functional.cross_entropy(net(inputs), labels)
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
        return loss

    return {"net": net, "x": nets.probe(net), "loader": loader, "train_step": train_step}


def _readme(folder):
    copy_of_the_demo(folder)
    own_run(folder)
    return training()


def _several_processes(folder):
    save_walk(folder / "checkpoints", 130)
    regime_proto.convert(folder / "checkpoints", folder / "expected.h5")
    (folder / "runs").mkdir()
    (folder / "runs/a").symlink_to("../checkpoints")


def _same_file(folder):
    """Every way to measure a run yields the same file."""
    for found in (*folder.glob("run.h5"), *folder.glob("trajectories/a.h5")):
        assert_same(found, folder / "expected.h5")
        found.unlink()


_FURNISHED = {
    "README.md": _readme,
    "docs/reading.md": copy_of_the_demo,
    "docs/recording.md": lambda _: training(),
    "docs/help.md": _one_trajectory,
    "docs/index.md": own_run,
    "docs/quantities.md": described_run,
    "docs/runs/index.md": own_run,
    "docs/many_runs.md": _two_runs,
    "docs/structure.md": copy_of_the_demo,
    "docs/gates.md": copy_of_the_demo,
    "docs/command_line.md": described_run,
    "docs/clusters.md": _several_processes,
}

CHECKS = {"docs/clusters.md": _same_file}
"""What must hold after each block of a page that was run."""


def furnish(page, folder):
    """Lay out in a folder what a page speaks of; return the variables that its Python blocks find."""
    return _FURNISHED.get(page, lambda _: None)(folder) or {}
