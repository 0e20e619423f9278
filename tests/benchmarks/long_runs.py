"""Long trajectories, and the tasks that `trajectory.py` measures in processes of their own.

``python long_runs.py TASK PATH`` prints what it found as JSON. Nothing here loads a framework: its memory would count.

The masks of a run repeat after as many steps as a chunk holds, so that a chunk is compressed once and stored many
times. The files are valid: flips are those between the masks.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

import regime_proto
from regime_proto.schema import hdf5, layout
from regime_proto.schema.flips import FlipCounter
from regime_proto.schema.header import Header, Layer, Observation
from regime_proto.schema.reader import open_checked
from regime_proto.schema.segments import Segments
from regime_proto.schema.validation.check import problems_of
from regime_proto.schema.validation.guard import inspect_apart
from regime_proto.schema.writer import TrajectoryWriter

PERIOD = hdf5.MAX_CHUNK_STEPS
APPENDED = 100_000
# Ends of the stretches over which appending is measured; each is ten segments long, but the first.
STRETCHES = {100: 90, 1_000: 10 * PERIOD, 10_000: 10 * PERIOD, APPENDED: 10 * PERIOD}


def make_header(*, layers, units, tensors, samples):
    """Return the header of a run; units in eights, so that masks have no padding."""
    attributes = {
        "run_id": "benchmark",
        "created": "2026-01-01T00:00:00+00:00",
        "software": "benchmark",
        "source_fingerprint": "benchmark",
        "step_kind": "step",
        "observations_per_epoch": 100.0,
        "mask_policy": "all",
    }
    gates = tuple(Layer(f"relu_{index}", "Relu", "relu", f"layers.{index}", units) for index in range(layers))
    return Header({f"{index}.weight": 1000 for index in range(tensors)}, gates, samples, attributes)


# About what LeNet5 has, with a probe of 26 samples.
SMALL = make_header(layers=4, units=1632, tensors=10, samples=26)
# 100,000 observations of it are 10 GB.
LARGE = make_header(layers=50, units=448, tensors=300, samples=32)


@dataclass(frozen=True)
class Period:
    """The rows that repeat: `masks` (step, sample, byte), `flips` (step, layer, sample), `deltas` (step, tensor)."""

    masks: np.ndarray
    flips: np.ndarray
    deltas: np.ndarray

    @classmethod
    def make(cls, header, rate):
        """Return random masks whose bits flip with probability `rate` from step to step."""
        random = np.random.default_rng(0)
        bits = random.random((PERIOD, header.samples, 8 * header.mask_bytes), np.float32) < rate
        changes = np.packbits(bits, axis=-1)
        masks = np.bitwise_xor.accumulate(changes, axis=0)
        counter = FlipCounter(header.layers)
        flips = [counter.count(mask, before) for mask, before in zip(masks, np.roll(masks, 1, axis=0), strict=True)]
        deltas = np.tile(random.random((PERIOD, 1)), len(header.tensors))
        return cls(masks, np.stack(flips), deltas)

    def rows(self, *, first):
        """Return a row of chunks of every variable that repeats."""
        flips, deltas = self.flips, self.deltas
        if first:
            flips, deltas = flips.copy(), deltas.copy()
            flips[0], deltas[0] = 0, np.nan
        return {"mask": self.masks, "flips": flips, "weight_delta_l1": deltas, "weight_delta_l2": deltas}

    def observation(self, number):
        at = number % PERIOD
        delta = self.deltas[at] if number else np.full_like(self.deltas[0], np.nan)
        flips = self.flips[at] if number else np.zeros_like(self.flips[0])
        return Observation(number, np.nan, True, delta, delta, flips, self.masks[at])


def write_run(path, header, steps, rate):
    """Write a finished trajectory; the chunks after the second row of them are copies of it."""
    period = Period.make(header, rate)
    numbers = np.arange(steps)
    with h5py.File(path, "w", **hdf5.CREATE_OPTIONS) as file:
        hdf5.create(file, header)
        for name in (layout.STEP, layout.MASK_STEP):
            hdf5.append_rows(file[name], numbers)
        hdf5.append_rows(file["epoch"], np.full(steps, np.nan))
        hdf5.append_rows(file["valid"], np.ones(steps, np.uint8))
        for first in (True, False):
            for name, rows in period.rows(first=first).items():
                hdf5.append_rows(file[name], rows)
        for name in period.rows(first=False):
            _repeat(file[name], steps)


def _repeat(stored, steps):
    chunks = []
    stored.id.chunk_iter(lambda chunk: chunks.append(chunk.chunk_offset))
    contents = {offset: stored.id.read_direct_chunk(offset)[1] for offset in chunks if offset[0] == PERIOD}
    stored.resize(steps, axis=0)
    for start in range(2 * PERIOD, steps, PERIOD):
        for offset, content in contents.items():
            stored.id.write_direct_chunk((start, *offset[1:]), content)


def append(path):
    """Append observations; return per stretch microseconds per step, and the seconds of the join."""
    period = Period.make(SMALL, 0.01)
    durations = np.zeros(APPENDED)
    with Segments(path) as segments:
        writer = TrajectoryWriter(segments, SMALL)
        for number in range(APPENDED):
            observation = period.observation(number)
            begin = time.perf_counter()
            writer.append(observation, fingerprint="benchmark")
            durations[number] = time.perf_counter() - begin
        begin = time.perf_counter()
        writer.close()
    joined = time.perf_counter() - begin
    stretches = {end: durations[end - length : end] for end, length in STRETCHES.items()}
    pace = {end: (1e6 * np.median(part), 1e6 * part.mean()) for end, part in stretches.items()}
    return {"pace": pace, "join": joined, "total": durations.sum(), "bytes": path.stat().st_size}


def analyze(path):
    return seconds_of(lambda: regime_proto.analyze(path))


def opening(path):
    """Return the seconds that the gate takes in a child and in this process, and those of a file that is trusted."""

    def open_trusted():
        with open_checked(path):
            pass

    open_trusted()
    ways = (
        lambda: inspect_apart(path, whole=False),
        lambda: problems_of(path, whole=False),
        open_trusted,
    )
    return np.median([[seconds_of(way) for way in ways] for _ in range(5)], axis=0).tolist()


def seconds_of(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


TASKS = {task.__name__: task for task in (append, analyze, opening)}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](Path(sys.argv[2]))))
