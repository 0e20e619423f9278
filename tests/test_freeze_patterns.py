"""The example that freezes patterns: what it claims of its networks, and what it writes."""

import copy
import json

import torch

from regime_proto.examples import freeze_patterns as example


def test_a_frozen_network_begins_as_the_network_and_keeps_its_patterns():
    torch.manual_seed(0)
    network, x = example.make(), torch.randn(20, 64)
    frozen = example.Frozen(copy.deepcopy(network))
    torch.testing.assert_close(frozen(x), network(x))
    with torch.no_grad():
        for parameter in frozen.network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    # With its gates open where the first network's are, it is that network's frozen form, layer by layer.
    first, _, second, _, third = network
    mine = frozen.network
    z = first(x)
    hidden = mine[0](x) * (z > 0)
    hidden = mine[2](hidden) * (second(z.relu()) > 0)
    torch.testing.assert_close(frozen(x), mine[4](hidden))
    assert not torch.allclose(frozen(x), mine(x))
    assert third is network[4]


def test_it_trains_in_three_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "SEEDS", 2)
    monkeypatch.setattr(example, "EPOCHS", 12)
    monkeypatch.setattr(example, "SETTLING", example.regime_proto.Settling(threshold=0.6, window=10))
    example.main(tmp_path)
    runs = json.loads((tmp_path / "accuracy.json").read_text())
    assert [run["way"] for run in runs] == [*example.WAYS] * 2
    going_on, when_settled, at_start = runs[:3]
    assert going_on["steps"] == when_settled["steps"] == at_start["steps"]
    assert len(going_on["steps"]) == 12
    until = sum(step <= when_settled["settled"] for step in going_on["steps"])
    assert 0 < until < 12
    assert going_on["accuracies"][:until] == when_settled["accuracies"][:until]
    assert going_on["accuracies"][until:] != when_settled["accuracies"][until:]
    assert min(run["accuracies"][-1] for run in runs) > 0.8
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert "frozen when settled: accuracy" in capsys.readouterr().out
