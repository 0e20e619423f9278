"""The examples in other frameworks: trained for real, saved by their own means, analyzed from the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from libraries import needed

pytestmark = pytest.mark.libraries
REGIME = Path(sys.executable).with_name("regime")
LIBRARIES = {
    "keras": ("keras", "jax2onnx"),
    "flax": ("flax", "orbax.checkpoint", "optax", "jax2onnx"),
    "sklearn": ("skops", "skl2onnx"),
    "numpy": (),
}


def command_in(module):
    """Return the arguments of the command that an example's description gives, as one would copy them."""
    text = " ".join((Path(__file__).parents[1] / "examples" / f"{module}.py").read_text(encoding="utf-8").split())
    return text.split("``regime ")[1].split("``")[0].split()


def run(*command, cwd):
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("framework", LIBRARIES)
def test_an_example_runs_as_it_says(framework, tmp_path):
    for name in LIBRARIES[framework]:
        needed(name)
    module = f"digits_{framework}"
    start = time.process_time()
    said = run(sys.executable, "-m", f"regime_proto.examples.{module}", str(tmp_path / "DIR"), cwd=tmp_path)
    assert float(said.split()[-1]) > 0.85
    assert time.process_time() - start < 60
    result = json.loads(run(REGIME, *command_in(module), "--json", cwd=tmp_path))
    assert result["observations"] == 88
    assert 0.5 < result["rho"] < 3
    # 0.3 epochs of 11 observations.
    assert result["window"] == 3
    inspected = run(REGIME, "inspect", "DIR/checkpoints", *command_in(module)[2:6], cwd=tmp_path)
    assert "88, by" in inspected
