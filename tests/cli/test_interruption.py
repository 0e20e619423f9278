"""Ctrl-C: what was observed is kept, and the command that is printed goes on."""

import re
import shlex
import shutil
import signal

import children
import pytest
import torch
from commands import regime
from reading import assert_same
from safetensors.torch import save_file

import regime_proto
from regime_proto.cli.interruption import Interrupted, leaving
from regime_proto.cli.output import writing
from regime_proto.schema.files import segments_folder
from regime_proto.schema.segments import kept_observations

# So many that there is time to interrupt.
STATES = 500


@pytest.fixture(scope="module")
def many(mlp_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "check points"
    folder.mkdir()
    for name in ("program.onnx", "probe.npz"):
        shutil.copy(mlp_run / name, folder)
    state = torch.load(mlp_run / "step_0000.pt")["model"]
    for step in range(STATES):
        save_file({name: 0.99**step * tensor for name, tensor in state.items()}, folder / f"step_{step}.safetensors")
    return folder


def interrupted_when(folder, *command):
    """Run a command, send it SIGINT once `folder` holds a segment, and return what it said."""
    child = children.start_regime(*command, cwd=folder.parent)
    child.wait_for(lambda: list(folder.glob("0*.h5")))
    child.send_signal(signal.SIGINT)
    return child.wait()


def test_an_interrupted_conversion_goes_on_by_the_command_it_prints(many, tmp_path):
    output = tmp_path / "run.h5"
    command = ["convert", str(many), "-o", "run.h5", "--workers", "1"]
    done = interrupted_when(segments_folder(output), *command)
    assert done.returncode == 130, done.stderr
    [line] = done.stderr.splitlines()
    found = re.fullmatch(
        rf"error: interrupted; (\d+) of {STATES} observations are kept in run.h5.segments; resume with `(regime .*)`",
        line,
    )
    assert found, line
    assert int(found[1]) == kept_observations(output) >= 64
    printed = shlex.split(found[2])
    assert printed == ["regime", *command]
    assert children.run_regime(*printed[1:], cwd=tmp_path).returncode == 0
    assert not segments_folder(output).exists()
    assert_same(output, regime_proto.convert(many, tmp_path / "uninterrupted.h5"))


def test_one_that_replaces_another_goes_on_too(run, tmp_path):
    """What it has observed itself is kept; what another has observed is not."""
    output = regime_proto.synthetic.trajectory(steps=3, path=tmp_path / "run.h5")

    def interrupted(at, **options):
        with pytest.raises(KeyboardInterrupt):
            regime_proto.convert(
                run, output, overwrite=True, progress=lambda done, total: done == at and raised(), **options
            )
        return kept_observations(output)

    assert interrupted(3, gates=["body.2"]) == 3
    assert interrupted(2) == 2
    assert interrupted(5, embed="all") == 5
    seen = []
    regime_proto.convert(run, output, overwrite=True, progress=lambda done, total: seen.append(done))
    assert seen == [6, 7, 8]
    assert_same(output, regime_proto.convert(run, tmp_path / "other.h5"))
    with regime_proto.open_trajectory(output) as trajectory:
        assert "program" in trajectory
        assert "probe" not in trajectory


def raised(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "function", "arguments", "left"),
    [
        ("regime_proto.integrity.check", "check", ["check", "checkpoints"], "nothing was written"),
        (
            "regime_proto.conversion.run",
            "measuring_of",
            ["convert", "checkpoints", "-o", "x.h5"],
            "nothing was written",
        ),
        ("regime_proto.synthetic", "replace_file", ["example", "-o", "x.h5"], "nothing was written"),
        ("regime_proto.schema.assemble", "_in_child", ["thin", "run.h5", "--masks", "none", "-o", "x.h5"], "nothing"),
        (
            "regime_proto.conversion.run",
            "warn_of_doubts",
            ["convert", "checkpoints", "-o", "x.h5"],
            "x.h5 is complete$",
        ),
    ],
)
def test_what_resumes_nothing_says_what_was_written(run, tmp_path, monkeypatch, module, function, arguments, left):
    """Interrupted at one place each."""
    monkeypatch.chdir(tmp_path)
    regime_proto.synthetic.trajectory(steps=3, path="run.h5")
    monkeypatch.setattr(f"{module}.{function}", raised)
    done = regime(*arguments)
    assert done.exit_code == 130
    assert re.search(f"^error: interrupted; {left}", done.stderr.splitlines()[-1]), done.stderr


def test_an_interrupted_merge_is_finished_by_the_same_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        regime_proto.convert(run, "run.h5", progress=lambda done, total: done == 5 and raised())
    with monkeypatch.context() as patched:
        patched.setattr("regime_proto.schema.finish.join", raised)
        done = regime("merge", "run.h5.segments")
    assert done.exit_code == 130
    expected = "5 of 5 observations are kept in run.h5.segments; resume with `regime merge run.h5.segments`"
    assert done.stderr == f"error: interrupted; {expected}\n"
    assert regime("merge", "run.h5.segments").exit_code == 0


def test_of_several_files_those_that_were_written_are_named(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("before")

    def write(*paths):
        with writing(first, second):
            for path in paths:
                path.write_text("now")
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=rf"^{first} is written$"):
        write(first)
    with pytest.raises(Interrupted, match=rf"^{first}, {second} are written$"):
        write(first, second)
    with pytest.raises(Interrupted, match=r"^$"):
        write()


def test_what_is_nearest_to_the_interruption_says_what_it_left():
    with pytest.raises(Interrupted, match="inner"), leaving(lambda: "outer"), leaving(lambda: "inner"):
        raise KeyboardInterrupt
