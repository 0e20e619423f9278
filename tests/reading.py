"""Reads one checkpoint as a conversion does."""

from regime_proto.payload import state_of


def read(adapter, path, weights=None):
    """Read with an adapter, and take the model's state out of what it found."""
    return state_of(adapter.read(path), str(path), weights=weights)
