"""Torch's settings of precision on CUDA: whatever a training chose, it finds it again; no card is needed."""

import json

import children
import pytest

pytestmark = pytest.mark.torch

# Ways in which a training says what its products are computed in: torch has two interfaces, which do not go together.
CHOICES = {
    "nothing": "",
    "matmul": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "everything": "torch.backends.fp32_precision = 'tf32'",
    "cudnn": "torch.backends.cudnn.fp32_precision = 'ieee'",
    "convolutions": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "matmul, older": "torch.backends.cuda.matmul.allow_tf32 = True",
    "cudnn, older": "torch.backends.cudnn.allow_tf32 = False",
    "everything, older": "torch.set_float32_matmul_precision('high')",
    "kernels": "torch.backends.cudnn.benchmark = True",
}

CODE = """
import json, sys, torch, warnings
from regime_proto.adapters.from_torch.live_masks import repeatable
warnings.simplefilter("ignore")
backends = torch.backends

def settings():
    found = {name: getattr(backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    places = {"matmul": backends.cuda.matmul, "conv": backends.cudnn.conv, "rnn": backends.cudnn.rnn}
    found |= {name: place.fp32_precision for name, place in places.items()}
    for name, place in (("matmul, older", backends.cuda.matmul), ("cudnn, older", backends.cudnn)):
        try:
            found[name] = place.allow_tf32
        except RuntimeError as error:
            found[name] = "refused"
    return found

exec(sys.argv[1])
before = settings()
with repeatable():
    within = settings()
print(json.dumps([before, within, settings()]))
"""


@pytest.mark.parametrize("choice", CHOICES)
def test_a_training_finds_its_settings_again(choice):
    done = children.run(CODE, CHOICES[choice])
    assert done.returncode == 0, done.stderr
    before, within, after = json.loads(done.stdout)
    assert after == before
    assert {within[name] for name in ("matmul", "conv", "rnn")} == {"ieee"}
    assert (within["enabled"], within["benchmark"], within["deterministic"]) == (True, False, True)
