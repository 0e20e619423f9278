"""What stands in for the data sets that no package holds."""

import numpy as np
import pytest
from real_graphs import fetched

from regime_proto.examples.paper.data.sets import IGNORED, LABELS, SOURCES, STAND_INS, load
from regime_proto.examples.paper.data.words import END, MASK, UNKNOWN

pytestmark = pytest.mark.libraries

# Samples to train and to validate with, and classes.
SIZES = {
    "HAR": (2874, 731, 7),
    "CIFAR100": (50_000, 10_000, 10),
    "TinyImageNet": (50_000, 10_000, 10),
    "Food-101": (50_000, 10_000, 10),
    "SST-2": (8455, 2113, 2),
    "AG News": (1781, 444, 5),
    "SQuAD": (13_298, 1859, 8192),
    "WikiText": (14_358, 1255, 8192),
}


def stand_in(name):
    """Return what stands in."""
    return fetched(lambda: load(name))


@pytest.mark.parametrize("name", SIZES)
def test_a_stand_in_says_so(name):
    data = stand_in(name)
    assert data.title == f"{data.name} (stand-in for {name})"
    assert name in SOURCES
    assert data.name == STAND_INS[name]
    assert (len(data.train[LABELS]), len(data.validation[LABELS]), data.classes) == SIZES[name]
    for part in (data.train, data.validation):
        assert {len(rows) for rows in part.values()} == {len(part[LABELS])}
        labels = part[LABELS][np.arange(len(part[LABELS]))]
        counted = labels[labels != IGNORED]
        assert 0 <= counted.min() <= counted.max() < data.classes
    batch = data.batch(data.train, np.arange(3))
    assert all(len(tensor) == 3 for tensor in batch.values())


@pytest.mark.parametrize("name", ["SST-2", "AG News"])
def test_the_first_samples_are_of_every_class(name):
    data = stand_in(name)
    found = np.bincount(data.validation[LABELS][:100], minlength=data.classes)
    assert found.min() > 5


def test_gaps_are_to_be_found_in_their_contexts():
    data = stand_in("SQuAD")
    ids, labels = data.train["input_ids"], data.train[LABELS]
    assert ((ids == MASK).sum(axis=1) == 1).all()
    assert (labels[:, 1] == END).all()
    assert (labels[:, 0] != UNKNOWN).all()
    is_there = (ids == labels[:, :1]).any(axis=1)
    assert is_there.all()
