"""The order of checkpoints, from what they say of themselves or from their names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regime_proto.schema.errors import RegimeError

from regime_proto.ordering import is_pointer, order
from regime_proto.payload import Label


def ordered(labels):
    """Order files given as name → label; return names with steps, kind, and how many files were looked into."""
    looked = []

    def peek(path):
        looked.append(path)
        return labels[path.name]

    found = order([Path(name) for name in labels], peek)
    return {path.name: step for path, step in found.steps.items()}, found.kind, looked


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        ({"step_10.pt": Label(), "step_9.pt": Label()}, {"step_9.pt": 9, "step_10.pt": 10}, "step"),
        ({"b.pt": Label(step=1), "a.pt": Label(step=2)}, {"b.pt": 1, "a.pt": 2}, "step"),
        ({"m_1.pt": Label(step=20), "m_2.pt": Label(step=10)}, {"m_2.pt": 10, "m_1.pt": 20}, "step"),
        ({"step_1.pt": Label(step=20), "step_2.pt": Label(step=10)}, {"step_2.pt": 10, "step_1.pt": 20}, "step"),
        ({"epoch=1-step=40.ckpt": Label(), "epoch=0-step=20.ckpt": Label()},
         {"epoch=0-step=20.ckpt": 20, "epoch=1-step=40.ckpt": 40}, "step"),
        ({"a.pt": Label(epoch=2), "b.pt": Label(epoch=1)}, {"b.pt": 1, "a.pt": 2}, "epoch"),
        ({"epoch2.pt": Label(), "epoch10.pt": Label()}, {"epoch2.pt": 2, "epoch10.pt": 10}, "epoch"),
        ({"run3_2.pt": Label(), "run3_10.pt": Label()}, {"run3_2.pt": 2, "run3_10.pt": 10}, "ordinal"),
        ({"run_2.pt": Label(epoch=1), "run_10.pt": Label(epoch=1)}, {"run_2.pt": 2, "run_10.pt": 10}, "ordinal"),
        ({"iter_00005.pth": Label(), "iter_00003.pth": Label()}, {"iter_00003.pth": 3, "iter_00005.pth": 5}, "step"),
    ],
)  # fmt: skip
def test_order(labels, expected, kind):
    found, found_kind, _ = ordered(labels)
    assert list(found.items()) == list(expected.items())
    assert found_kind == kind


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=30), st.randoms())
def test_never_lexicographic(steps, random):
    names = [f"step_{step}.pt" for step in steps]
    random.shuffle(names)
    found, _, looked = ordered({name: Label() for name in names})
    assert list(found.values()) == sorted(steps)
    assert len(looked) <= 3


def test_files_that_say_nothing_are_not_all_looked_into():
    found, kind, looked = ordered({f"net_{number}.pt": Label() for number in range(100)})
    assert list(found.values()) == list(range(100))
    assert kind == "ordinal"
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"step_5.pt": Label(), "step_05.pt": Label()}, "both have step 5"),
        ({"a.pt": Label(step=3), "b.pt": Label(step=3)}, "both have step 3"),
        ({"a.pt": Label(epoch=3), "b.pt": Label(epoch=3)}, "both have epoch 3"),
        ({"model_7.pt": Label(), "weights_7.pt": Label()}, "both have ordinal 7"),
        ({"good_1.pt": Label(), "weights.pt": Label()}, "weights.pt: no step in the payload and no number"),
    ],
)
def test_no_order(labels, message):
    with pytest.raises(RegimeError, match=message):
        ordered(labels)


@pytest.mark.parametrize("name", ["last.ckpt", "best.pt", "model_best.pth", "latest.pt", "epoch=3-v1.ckpt", "final.pt"])
def test_pointers(name):
    assert is_pointer(Path(name))


@pytest.mark.parametrize("name", ["step_1.pt", "blast_3.pt", "bestow_1.pt", "net-v1_step_3.pt"])
def test_no_pointers(name):
    assert not is_pointer(Path(name))
