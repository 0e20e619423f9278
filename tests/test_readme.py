"""What the README shows is what happens."""

import re
import shlex
import shutil
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from folders import ROOT
from nets import save_run

import regime_proto
from regime_proto.cli.main import main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def furnish(folder):
    """Lay out what the README speaks of: checkpoints/, other-run/, val.npz and mypkg.net:make."""
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
    return folder


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("regime ")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What came of each command, one after the other in one folder."""
    folder = furnish(tmp_path_factory.mktemp("commands"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        return {command: CliRunner().invoke(main, shlex.split(command, comments=True)[1:]) for command in COMMANDS}


def test_commands_run_as_they_stand(ran):
    assert len(COMMANDS) >= 6
    for command, result in ran.items():
        assert result.exit_code == 0, (command, result.output)


def test_python_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(furnish(tmp_path))
    net = nets.make_mlp()
    loader = [(torch.randn(8, 12), torch.randint(0, 3, (8,))) for _ in range(6)]

    def train_step(inputs, labels):
        loss = torch.nn.functional.cross_entropy(net(inputs), labels)
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
        return loss

    scope = {"regime_proto": regime_proto, "net": net, "x": nets.probe(net), "loader": loader, "train_step": train_step}
    live, analysis, conversion = blocks("python")
    # The last block makes the file that the one before it reads.
    for block in (live, conversion, analysis):
        exec(block, scope)
    assert regime_proto.analyze("live.h5").rho > 0


def test_every_command_stands_in_the_readme():
    for name in main.commands:
        assert f"regime {name}" in README or f"make {name}" in README
