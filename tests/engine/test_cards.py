"""Which cards a process may use, on machines with and without them."""

import pytest

from regime_proto.runtime.cards import VISIBLE, visible_cards


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Put a driver's program in place, which lists the cards or fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)

    def prepare(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return prepare


@pytest.mark.parametrize(
    ("script", "cards"),
    [
        ("echo GPU-1; echo GPU-2", ["GPU-1", "GPU-2"]),
        ("echo cannot talk to the driver; exit 9", []),
        ("true", []),
    ],
)
def test_cards_are_those_of_the_driver(machine, script, cards):
    machine(script)
    assert visible_cards() == cards


def test_no_driver(machine):
    assert visible_cards() == []


@pytest.mark.parametrize(
    ("chosen", "cards"), [("1", ["1"]), ("3, GPU-7", ["3", "GPU-7"]), ("", []), ("-1", []), ("0,-1,2", ["0"])]
)
def test_the_variable_chooses(machine, monkeypatch, chosen, cards):
    machine("echo GPU-1; echo GPU-2")
    monkeypatch.setenv(VISIBLE, chosen)
    assert visible_cards() == cards
