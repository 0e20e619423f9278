"""The networks of the paper's rows: their ReLUs and units, and that each is trained, recorded and converted."""

import numpy as np
import paper_sets
import pytest
import torch
from libraries import needed
from torch import nn

import regime_proto
from regime_proto.examples.paper.data.sets import IGNORED, LABELS
from regime_proto.examples.paper.models.build import NETWORKS, build
from regime_proto.examples.paper.models.size import Resized, scaled
from regime_proto.examples.paper.rows import ROWS
from regime_proto.schema.errors import RegimeError

# The published data sets, as far as a network knows them.
PUBLISHED = {
    "Adult": lambda: paper_sets.features(104),
    "Breast Cancer": lambda: paper_sets.features(30),
    "HAR": lambda: paper_sets.features(561, 6),
    "MNIST": lambda: paper_sets.images(28, channels=1),
    "CIFAR10": lambda: paper_sets.images(32),
    "CIFAR100": lambda: paper_sets.images(32, 100),
    "TinyImageNet": lambda: paper_sets.images(64, 200),
    "Food-101": lambda: paper_sets.images(224, 101),
    "SST-2": lambda: paper_sets.texts(64, vocabulary=8192),
    "AG News": lambda: paper_sets.texts(128, 4, vocabulary=8192),
    "SQuAD": lambda: paper_sets.questions(128, 8, vocabulary=8192),
    "WikiText": lambda: paper_sets.windows(128, vocabulary=8192),
}
# Of each network a data set, a width and an image size that make it small.
SMALL = {
    "mlp-256-128": (paper_sets.features(6), 1 / 16, None),
    "mlp-512-256-plain": (paper_sets.features(6), 1 / 16, None),
    "lenet5": (paper_sets.images(28, channels=1), 0.5, None),
    "alexnet": (paper_sets.images(32), 1 / 16, None),
    "resnet34": (paper_sets.images(16), 1 / 16, None),
    "efficientnet-b0": (paper_sets.images(32), 0.1, None),
    "xlnet": (paper_sets.texts(8), 1 / 12, None),
    "roberta": (paper_sets.texts(8), 1 / 12, None),
    "t5": (paper_sets.questions(8), 1 / 8, None),
    "gpt2": (paper_sets.windows(8), 1 / 12, None),
    "vit-b16": (paper_sets.images(32), 1 / 12, 48),
    "swin": (paper_sets.images(32), 0.3, 64),
    "pvt": (paper_sets.images(32), 1 / 8, 64),
}
GATES = {row.network: row.gates for row in ROWS}
OF_TRANSFORMERS = ("resnet34", "efficientnet-b0", "xlnet", "roberta", "t5", "gpt2", "vit-b16", "swin", "pvt")
STRUCTURE = ("structural_change_l2_last", "quantitative_change_l2_last")


def inputs_of(data, samples, device="cpu"):
    batch = data.batch(data.train, np.arange(samples), device)
    return batch, batch.pop(LABELS)


def relus_of(model, inputs, samples):
    """Return the units of every use of a ReLU for one sample, by running the model."""
    sizes = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, output: sizes.append(output.numel() // samples))
    with torch.no_grad():
        logits = model.eval()(**inputs)
    return sizes, logits


def by_network(names):
    return [
        pytest.param(name, marks=[pytest.mark.libraries] if name in OF_TRANSFORMERS else []) for name in names
    ]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.libraries] if row.network in OF_TRANSFORMERS else [])
        for row in ROWS
    ],
)
def test_a_row_states_the_relus_and_units_of_its_network(row):
    if row.network in OF_TRANSFORMERS:
        needed("transformers")
    data = PUBLISHED[row.data]()
    # Shapes are all that counts; texts are looked at to build masks.
    device = "meta" if "x" in data.train else "cpu"
    with torch.device(device):
        model = build(row.network, data)
    inputs, labels = inputs_of(data, 2, device)
    sizes, logits = relus_of(model, inputs, 2)
    assert (len(sizes), sum(sizes)) == (row.gates, row.units)
    assert logits.shape == (*labels.shape, data.classes)


@pytest.mark.parametrize("network", by_network(SMALL))
def test_a_network_is_trained_recorded_and_converted(tmp_path, network):
    if network in OF_TRANSFORMERS:
        needed("transformers")
    data, width, image_size = SMALL[network]
    torch.manual_seed(0)
    model = build(network, data, width, image_size)
    # None that is used twice: then each module is one gate.
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = inputs_of(data, 8)
    probe = {name: tensor[:4].numpy() for name, tensor in inputs.items()}
    (tmp_path / "run").mkdir()
    losses = []
    with regime_proto.record(model, probe, tmp_path / "live.h5", masks="none", engine="native") as recorder:
        recorder.observe(0)
        torch.save(model.state_dict(), tmp_path / "run" / "step-0.pt")
        for step in (1, 2, 3):
            model.train()
            logits = model(**inputs)
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            recorder.observe(step, loss=losses[-1])
        torch.save(model.state_dict(), tmp_path / "run" / "step-3.pt")
    assert np.isfinite(losses).all()
    np.savez(tmp_path / "probe.npz", **probe)
    regime_proto.convert(
        tmp_path / "run", tmp_path / "saved.h5", model=model, probe=tmp_path / "probe.npz", measure=STRUCTURE
    )
    with (
        regime_proto.open_trajectory(tmp_path / "live.h5") as live,
        regime_proto.open_trajectory(tmp_path / "saved.h5") as saved,
    ):
        assert live.sizes["layer"] == saved.sizes["layer"] == len(relus) == GATES[network]
        np.testing.assert_array_equal(live["layer_size"], saved["layer_size"])
        assert live["flips"].values[1:].sum() > 0
        # From the first step to the third at once.
        moved = saved["weight_delta_l2"].values[1]
        assert 0 < np.linalg.norm(moved) <= live["weight_delta_l2"].values[1:].sum()
        structural, quantitative = (saved[f"quantity_{name}"].values for name in STRUCTURE)
        assert np.isfinite(structural).all()
        assert np.isfinite(quantitative).all()
        # The first differs from the last.
        assert structural[0].sum() > 0
        assert quantitative[0].sum() > 0


@pytest.mark.parametrize("network", ["lenet5", "alexnet", "mlp-256-128"])
def test_images_of_another_size_are_resized(network):
    data = paper_sets.images(20)
    inputs, _ = inputs_of(data, 2)
    model = build(network, data, 0.25, 32)
    assert isinstance(model, Resized)
    assert model(**inputs).shape == (2, 10)
    large = nn.functional.interpolate(inputs["x"], size=(32, 32), mode="bilinear")
    torch.testing.assert_close(model.eval()(**inputs), model.network(large))


def test_images_of_the_size_that_is_taken_are_not_touched():
    assert not isinstance(build("lenet5", paper_sets.images(32), 0.25), Resized)
    assert not isinstance(build("lenet5", paper_sets.images(32), 0.25, 32), Resized)


@pytest.mark.parametrize(
    ("network", "size", "match"),
    [
        ("lenet5", 12, "--image-size 12: lenet5 needs a multiple of 4, at least 16"),
        ("vit-b16", 100, "--image-size 100: vit-b16 needs a multiple of 16, at least 16"),
        ("swin", 32, "--image-size 32: swin needs a multiple of 32, at least 64"),
        ("alexnet", -16, "--image-size -16: alexnet needs a multiple"),
    ],
)
def test_other_image_sizes_are_refused(network, size, match):
    with pytest.raises(RegimeError, match=match):
        build(network, paper_sets.images(32), 0.25, size)


def test_an_image_size_of_a_table_is_refused():
    with pytest.raises(RegimeError, match="--image-size 32: made up holds no images; leave out the option"):
        build("mlp-256-128", paper_sets.features(6), 0.25, 32)


@pytest.mark.parametrize("width", [0, -1, 1.5, float("nan")])
def test_other_widths_are_refused(width):
    with pytest.raises(RegimeError, match="expected a fraction of the real width"):
        build("lenet5", paper_sets.images(32), width)


def test_a_part_of_the_channels_is_a_multiple():
    assert [scaled(64, width) for width in (1, 0.5, 0.001)] == [64, 32, 1]
    assert [scaled(64, width, 8) for width in (1, 0.3, 0.001)] == [64, 16, 8]


def test_every_row_has_a_network():
    assert {row.network for row in ROWS} == set(NETWORKS)


@pytest.mark.libraries
def test_padding_does_not_change_what_a_text_gives():
    needed("transformers")
    for network in ("xlnet", "roberta"):
        torch.manual_seed(0)
        data, width, _ = SMALL[network]
        model = build(network, data, width).eval()
        inputs, _ = inputs_of(data, 2)
        other = {**inputs, "input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], 9)}
        if network == "xlnet":
            torch.testing.assert_close(model(**inputs), model(**other))
        shorter = {name: tensor[:, :4] for name, tensor in inputs.items()}
        torch.testing.assert_close(model(**inputs), model(**shorter), atol=1e-5, rtol=1e-4)


@pytest.mark.libraries
def test_gpt2_looks_at_no_later_token():
    needed("transformers")
    data, width, _ = SMALL["gpt2"]
    model = build("gpt2", data, width).eval()
    inputs, _ = inputs_of(data, 2)
    changed = inputs["input_ids"].clone()
    changed[:, 5:] = 7
    before, after = model(**inputs), model(input_ids=changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
