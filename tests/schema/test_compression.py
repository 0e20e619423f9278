"""What is compressed outside of HDF5 is read by HDF5, whichever library did it."""

import zlib

import h5py
import numpy as np
import pytest
import trajectories

from regime_proto.schema import compression, hdf5

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, RANDOM.bytes(4096), RANDOM.integers(3, size=32768, dtype="u1").tobytes()]
)
@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_what_is_deflated_is_inflated(content, library, monkeypatch):
    if library == "zlib":
        monkeypatch.setattr(compression, "isal_zlib", None)
    assert zlib.decompress(compression.deflated(content)) == content


def test_a_file_is_the_same_to_readers_whichever_library_compressed_it(tmp_path, monkeypatch):
    header = trajectories.header()
    rows = trajectories.growing_rows(header, 70)
    images = [hdf5.image(header, rows)]
    monkeypatch.setattr(compression, "isal_zlib", None)
    images.append(hdf5.image(header, rows))
    assert images[0] != images[1]
    fast, plain = (h5py.File.in_memory(image) for image in images)
    assert fast["mask"].id.get_storage_size() < 1.1 * plain["mask"].id.get_storage_size()
    for name in plain:
        np.testing.assert_array_equal(fast[name], plain[name])
