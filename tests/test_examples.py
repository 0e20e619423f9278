"""The examples in other frameworks: trained for real, saved by their own means, analyzed from the command line."""

import json
import time
import warnings

import pytest
from commands import regime
from folders import EXAMPLES
from libraries import needed
from running import apart_too, run_module

pytestmark = pytest.mark.libraries
LIBRARIES = {
    "keras": ("keras", "jax2onnx"),
    "flax": ("flax", "orbax.checkpoint", "optax", "jax2onnx"),
    "sklearn": ("skops", "skl2onnx"),
    "numpy": (),
}


def command_in(module):
    """Return the arguments of the command that an example's description gives, as one would copy them."""
    text = " ".join((EXAMPLES / f"{module}.py").read_text(encoding="utf-8").split())
    return text.split("``regime ")[1].split("``")[0].split()


def said_by(*command):
    """Return what ``regime COMMAND`` says."""
    done = regime(*command)
    assert done.exit_code == 0, done.output
    return done.stdout


@apart_too
@pytest.mark.parametrize("framework", LIBRARIES)
def test_an_example_runs_as_it_says(framework, apart, tmp_path, monkeypatch, request):
    if "jax2onnx" in LIBRARIES[framework] and not apart:
        request.getfixturevalue("jax_exports")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        # Of the libraries, on each other.
        warnings.simplefilter("ignore")
        for name in LIBRARIES[framework]:
            needed(name)
        module = f"digits_{framework}"
        start = time.process_time()
        said = run_module(f"regime_proto.examples.{module}", tmp_path / "DIR", folder=tmp_path, apart=apart)
        assert float(said.split()[-1]) > 0.85
        assert time.process_time() - start < 60
        result = json.loads(said_by(*command_in(module), "--json"))
        inspected = said_by("inspect", "DIR/checkpoints", *command_in(module)[2:6])
    assert result["observations"] == 88
    assert 0.5 < result["rho"] < 3
    # 0.3 epochs of 11 observations.
    assert result["window"] == 3
    assert "88, by" in inspected
