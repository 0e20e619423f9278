"""Writes the affine maps that a network is around samples of its probe (PROTOCOL, Corollary 1)."""

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from regime_proto.checkpoints.locations import as_place
from regime_proto.checkpoints.source import Checkpoint, Source
from regime_proto.conversion.plan import load_program, opened
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.conversion.unpack import unpack
from regime_proto.engine.linearizing import AffineMap, Linearizer
from regime_proto.plugins.open_directory import open_directory
from regime_proto.program.probe import probe_content
from regime_proto.program.program import Program
from regime_proto.quantities.deltas import non_finite
from regime_proto.runtime.device import find_device
from regime_proto.schema.display import Display, Displayed, Table
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import place_files
from regime_proto.schema.kinds import MAP_ARRAYS
from regime_proto.schema.nearest import no_such
from regime_proto.schema.types import Array


@dataclass(frozen=True, repr=False)
class Linearized(Displayed):
    """The affine maps of one state: f(x') = matrix · x' + offset around each of some samples.

    Parameters
    ----------
    step : int
    checkpoint : Path
    maps : tuple of AffineMap
        With the fields `matrix`, `offset`, `radius` …, which are here side by side.
    probe_samples : int
        Samples of the probe.
    regions : int
        Different regions that these lie in.
    """

    step: int
    checkpoint: Path
    maps: tuple[AffineMap, ...]
    probe_samples: int
    regions: int

    @property
    def sample(self) -> Array:
        """The number of each sample in the probe, (map,) int64."""
        return self._stacked("sample")

    @property
    def matrix(self) -> Array:
        """Of every map K, (map, output, input) float64."""
        return self._stacked("matrix")

    @property
    def offset(self) -> Array:
        """Of every map c, (map, output) float64."""
        return self._stacked("offset")

    @property
    def inputs(self) -> Array:
        """The samples x themselves, (map, input) float64."""
        return self._stacked("inputs")

    @property
    def outputs(self) -> Array:
        """What the network gives for them, f(x), (map, output) float64."""
        return self._stacked("outputs")

    @property
    def residual(self) -> Array:
        """‖f(x) − Kx − c‖₂, (map,) float64."""
        return self._stacked("residual")

    @property
    def radius(self) -> Array:
        """That of the ball around x in which the map holds, (map,) float64."""
        return self._stacked("radius")

    @property
    def limit(self) -> Array:
        """What changes at that distance, in words, (map,) str."""
        return self._stacked("limit")

    def _stacked(self, name: str) -> Array:
        return np.array([getattr(one, name) for one in self.maps])

    def _display(self) -> Display:
        outputs, inputs = self.matrix.shape[1:]
        radius, residual = self.radius, self.residual
        facts = (
            ("maps", f"{len(self.maps)}, of {inputs} inputs to {outputs} outputs"),
            ("regions", f"{self.regions}, of {self.probe_samples} probe samples"),
            ("radius", f"{radius.min():.3g} to {radius.max():.3g}"),
            ("residual", f"{residual.max():.1e} at most"),
        )
        return Display(f"step {self.step} of {self.checkpoint.name}", (Table(facts),))

    @property
    def content(self) -> bytes:
        """What `save` writes."""
        return probe_content({name: np.asarray(getattr(self, name)) for name in MAP_ARRAYS})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the maps as ``.npz``.

        The arrays have the names that they have here: ``matrix`` (map, output, input) is K and ``offset`` (map, output)
        is c of f(x') = K x' + c; ``inputs`` and ``outputs`` are x and f(x), ``residual`` ‖f(x) − Kx − c‖₂, ``radius``
        that of the ball around x in which the map holds, ``limit`` what changes there, ``sample`` the number of each
        in the probe; ``step``, and ``regions`` of the ``probe_samples``.

        Raises
        ------
        RegimeError
            A file that holds something else than maps is in the way.
        """
        place_files({Path(path): self.content}, overwrite=True)


def linearize(
    source: str | os.PathLike[str],
    step: int | None = None,
    *,
    samples: Sequence[int] | None = None,
    outputs_of: str | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    model: object = None,
    probe: object = None,
    adapter: str | None = None,
    step_pattern: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Linearized:
    """Return the affine map that the network is around samples of its probe.

    Inside the region of a sample a network of piecewise affine gates is x' ↦ Kx' + c. K is the Jacobian of the network
    with its gates, and its max-pooling, frozen to what the sample does. It takes as many passes as a sample has
    numbers, divided by the samples of the probe.

    Parameters
    ----------
    source : path
        Directory of checkpoints; or a trajectory that carries its program, with `checkpoints`.
    step : int, optional
        Which checkpoint; the last, if not given.
    samples : sequence of int, optional
        Numbers of samples in the probe, each taken once; all, if not given.
    outputs_of : str, optional
        Node or module of a gate: map to its outputs, in place of those of the network.
    checkpoints : path, optional
        Where the states of a trajectory lie.
    model, probe : object, optional
        As in `regime_proto.convert`.
    adapter, step_pattern, weights : str, optional
        As there.
    device : str
        As there.
    progress : callable, optional
        Called with the number of samples done and their total.

    Raises
    ------
    RegimeError
        Something is missing, a weight holds NaN or Inf, or the network is no affine map, which names what is not.
    """
    settings = ConversionSettings.of(
        model=model, probe=probe, adapter=adapter, step_pattern=step_pattern, weights=weights, device=device
    )
    found, program, bound = _opened(as_place(source), None if checkpoints is None else as_place(checkpoints), settings)
    checkpoint = _checkpoint(found, step)
    linearizer = Linearizer(program, bound, find_device(device), outputs_of=outputs_of)
    chosen = _chosen(samples, linearizer.samples)
    state = program.bind(found.read(checkpoint), str(checkpoint.path))
    broken = non_finite(state, [name for name, array in state.items() if array.dtype.kind not in "iub"])
    if broken:
        raise RegimeError(
            f"{checkpoint.path}: {broken[0]} holds NaN or Inf, so there is no affine map; take another checkpoint with "
            "--step"
        )
    natural = linearizer.run(state)
    maps = linearizer.maps(natural, chosen, progress)
    return Linearized(checkpoint.step, checkpoint.path, tuple(maps), linearizer.samples, linearizer.regions(natural))


def _chosen(samples: Sequence[int] | None, count: int) -> list[int]:
    """Return numbers of samples, each once."""
    if samples is None:
        return list(range(count))
    try:
        chosen = [operator.index(number) for number in samples]
    except TypeError:
        raise RegimeError(f"samples {samples!r}: expected whole numbers, such as [0, 3]") from None
    wrong = [number for number in chosen if number not in range(count)]
    if wrong:
        raise RegimeError(f"--samples {wrong[0]}: the probe has the samples 0 to {count - 1}")
    return list(dict.fromkeys(chosen))


def _opened(
    source: Path, checkpoints: Path | None, settings: ConversionSettings
) -> tuple[Source, Program, dict[str, Array]]:
    """Return checkpoints, the program and the probe."""
    if source.is_dir():
        if checkpoints is not None:
            raise RegimeError(f"--checkpoints: goes with a trajectory; {source} is a directory of checkpoints itself")
        # Not by a plan: which gates are tracked does not matter.
        found, program, bound, variants = opened(source, settings)
        if variants is not None:
            raise RegimeError(
                f"{source}: the checkpoints hold graphs that differ; give the program of one: --model FILE.onnx"
            )
        return found, program, bound
    if not source.is_file():
        raise RegimeError(no_such(source, "directory of checkpoints or trajectory"))
    if checkpoints is None:
        raise RegimeError(
            f"{source}: a trajectory holds no weights; say where its checkpoints are: --checkpoints DIR, or give that "
            "directory in its place"
        )
    with TemporaryDirectory() as folder:
        unpacked = unpack(source, Path(folder))
        if not unpacked.has_probe and settings.probe is None:
            raise RegimeError(f"{source}: carries no probe; give the one that it was made with: --probe FILE")
        place_files(unpacked.contents, overwrite=False)
        program, bound = load_program(Path(folder), model=settings.model, probe=settings.probe)
    return open_directory(checkpoints, settings.source), program, bound


def _checkpoint(source: Source, step: int | None) -> Checkpoint:
    if not source.checkpoints:
        raise RegimeError(f"{source.root}: no checkpoint")
    if step is None:
        return source.checkpoints[-1]
    found = [checkpoint for checkpoint in source.checkpoints if checkpoint.step == step]
    if not found:
        nearest = min(source.checkpoints, key=lambda checkpoint: abs(checkpoint.step - step))
        raise RegimeError(f"--step {step}: no checkpoint of that step in {source.root}; the nearest is {nearest.step}")
    return found[0]
