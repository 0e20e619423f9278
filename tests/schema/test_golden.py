"""Files of every released version are read for ever, with the same values and the same numbers."""

import hashlib
import json

import h5py
import numpy as np
import pytest
from folders import DATA

import regime_proto
from regime_proto.schema import validate
from regime_proto.schema.reader import open_checked, read_header

FILES = sorted(DATA.glob("v*.h5"))


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def golden(request):
    """A file, and what it held when it was written."""
    return request.param, json.loads(request.param.with_suffix(".json").read_text(encoding="utf-8"))


def test_there_is_a_file_of_every_minor_version():
    assert {path.stem.partition("-")[0] for path in FILES} == {"v1.0", "v1.1"}


def test_it_was_never_rewritten(golden):
    path, known = golden
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known["sha256"]


def test_it_is_valid(golden):
    assert validate(golden[0]) == []


def test_it_holds_what_it_held(golden):
    path, known = golden
    with open_checked(path) as file:
        header = read_header(file)
        assert {variable.name for variable in header.variables} == set(known["variables"])
        for name, values in known["variables"].items():
            stored = file[name]
            found = stored.asstr()[...] if h5py.check_string_dtype(stored.dtype) else stored[...]
            np.testing.assert_array_equal(found, np.array(values, found.dtype), err_msg=name)
        assert dict(file.attrs) == known["attributes"]


def test_it_gives_the_same_numbers(golden):
    path, known = golden
    result = regime_proto.analyze(path, batches_per_epoch=100)
    assert {name: getattr(result, name) for name in known["results"]} == pytest.approx(known["results"], rel=1e-12)
