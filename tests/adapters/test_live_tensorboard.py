"""What a recorder finds, read back from TensorBoard's own files."""

import nets
import numpy as np
import pytest
from libraries import needed

import regime_proto
from regime_proto.adapters.live.tensorboard import to_tensorboard

pytestmark = [pytest.mark.libraries, pytest.mark.usefixtures("nets_are_exported_once")]
needed("tensorboard")


@pytest.mark.parametrize("options", [{}, {"prefix": "mlp"}], ids=["", "prefix"])
def test_every_change_becomes_a_scalar(options, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = nets.make_mlp()
    seen = []
    with SummaryWriter(tmp_path / "events") as writer:
        forward = to_tensorboard(writer, **options)

        def both(status):
            seen.append(status)
            forward(status)

        with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", on_observation=both) as recorder:
            for step, _ in enumerate(nets.train(model, states=4)):
                recorder.observe(10 * step)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    prefix = options.get("prefix", "regime")
    assert sorted(events.Tags()["scalars"]) == [f"{prefix}/pattern_change", f"{prefix}/weight_change"]
    assert np.isnan(seen[0].weight_change)
    for name in ("weight_change", "pattern_change"):
        scalars = events.Scalars(f"{prefix}/{name}")
        # The first observation has no change: NaN is passed over.
        assert [scalar.step for scalar in scalars] == [10, 20, 30]
        np.testing.assert_allclose(
            [scalar.value for scalar in scalars], [getattr(s, name) for s in seen[1:]], rtol=1e-6
        )
