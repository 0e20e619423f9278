"""What the README shows is what happens."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import save_run
from readme_table import with_table
from regime_proto.adapters.table import SOURCES
from regime_proto.cli.main import main

import regime_proto

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def workplace(probe_file, tmp_path, monkeypatch):
    """A folder with what the README speaks of: checkpoints/, other-run/, val.npz and mypkg.net:make."""
    save_run(tmp_path / "checkpoints", nets.make_mlp(), states=24)
    other = nets.make_mlp()
    torch.nn.init.normal_(next(other.parameters()))
    save_run(tmp_path / "other-run", other)
    np.savez(tmp_path / "val.npz", np.load(probe_file))
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg/__init__.py").touch()
    shutil.copy(Path(nets.__file__), tmp_path / "mypkg/net.py")
    with (tmp_path / "mypkg/net.py").open("a") as file:
        file.write("\nmake = make_mlp\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_python_run_as_they_stand(workplace):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("regime ")]
    assert len(commands) >= 6
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command, comments=True)[1:])
        assert result.exit_code == 0, (command, result.output)
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
    Path("run.h5").rename("kept.h5")
    live, analysis, conversion = blocks("python")
    # The last block makes the file that the one before it reads.
    for block in (live, conversion, analysis):
        exec(block, scope)
    assert regime_proto.analyze("live.h5").rho > 0


def test_the_output_shown_is_the_output(tmp_path, monkeypatch):
    [shown] = [block for block in blocks("text") if block.startswith("$ regime analyze")]
    command, _, expected = shown.partition("\n")
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(main, ["demo", "--out", "demo-run", "--quiet"])
    result = CliRunner().invoke(main, shlex.split(command.removeprefix("$ regime ")))
    found = [line.rstrip() for line in result.stdout.splitlines()]
    lines = [line.rstrip() for line in expected.splitlines() if not line.startswith(("wrote", "nothing"))]

    # Numbers may differ in the last place between processors; words and layout may not.
    def words(text):
        return [re.sub(r"[\d.▁▂▃▄▅▆▇█]+", "#", line) for line in text]

    assert words(found) == words(lines)
    rho = [float(re.search(r"ρ +([\d.]+)", "\n".join(text))[1]) for text in (found, lines)]
    assert rho[0] == pytest.approx(rho[1], abs=0.05)


def test_the_table_of_sources_is_that_of_the_adapters():
    assert with_table(README) == README, "run make readme"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    adapters = project["entry-points"]["regime_proto.adapters"]
    assert {entry.adapter for entry in SOURCES} == set(adapters)
    assert {extra for entry in SOURCES for extra in entry.extras} <= set(project["optional-dependencies"])


def test_every_command_stands_in_the_readme():
    for name in main.commands:
        assert f"regime {name}" in README or f"make {name}" in README
