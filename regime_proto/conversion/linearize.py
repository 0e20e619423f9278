"""Computes and writes the affine maps of a network around samples of its probe (docs/protocol.md, section 8)."""

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
        Step of the checkpoint.
    checkpoint : Path
        File or folder of the checkpoint.
    maps : tuple of AffineMap
        One for each sample; the properties of this class stack their fields.
    probe_samples : int
        Number of samples in the probe.
    regions : int
        Number of distinct regions that contain them.
    """

    step: int
    checkpoint: Path
    maps: tuple[AffineMap, ...]
    probe_samples: int
    regions: int

    @property
    def sample(self) -> Array:
        """Index of each sample in the probe, (map,) int64."""
        return self._stacked("sample")

    @property
    def matrix(self) -> Array:
        """The matrix K of each map, (map, output, input) float64."""
        return self._stacked("matrix")

    @property
    def offset(self) -> Array:
        """The offset c of each map, (map, output) float64."""
        return self._stacked("offset")

    @property
    def inputs(self) -> Array:
        """The samples x, (map, input) float64."""
        return self._stacked("inputs")

    @property
    def outputs(self) -> Array:
        """The outputs f(x) of the network for the samples, (map, output) float64."""
        return self._stacked("outputs")

    @property
    def residual(self) -> Array:
        """The residual ‖f(x) − Kx − c‖₂ of each map, (map,) float64."""
        return self._stacked("residual")

    @property
    def radius(self) -> Array:
        """Radius of the ball around x in which the map holds, in the units of the input, (map,) float64."""
        return self._stacked("radius")

    @property
    def limit(self) -> Array:
        """Description of what changes at that radius, (map,) str."""
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
        """Content of the file that `save` writes."""
        return probe_content({name: np.asarray(getattr(self, name)) for name in MAP_ARRAYS})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the maps as ``.npz``.

        The file holds one array for each property, under the same name: ``matrix``, ``offset``, ``inputs``,
        ``outputs``, ``residual``, ``radius``, ``limit`` and ``sample``; and the numbers ``step``, ``regions`` and
        ``probe_samples``.

        Parameters
        ----------
        path : path

        Raises
        ------
        RegimeError
            The path exists and is not a file of such maps.
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
    """Compute the affine maps that equal the network around samples of its probe.

    In the region of a sample x, a network with piecewise affine gates computes x' ↦ Kx' + c. K is the Jacobian of the
    network with its gates and its max-pooling frozen to their state at x. Each map takes as many forward passes as a
    sample has numbers, divided by the number of samples in the probe.

    Parameters
    ----------
    source : path
        Directory of checkpoints; or, together with `checkpoints`, a trajectory that carries its program.
    step : int, optional
        Step of the checkpoint. Default: the last one.
    samples : sequence of int, optional
        Indices of samples in the probe, from 0; duplicates are ignored. Default: all samples.
    outputs_of : str, optional
        Node or module of a gate. The maps then lead to its outputs instead of the outputs of the network.
    checkpoints : path, optional
        Directory of the checkpoints of a trajectory.
    model, probe : object, optional
        As in `regime_proto.convert`.
    adapter, step_pattern, weights : str, optional
        As in `regime_proto.convert`.
    device : str
        As in `regime_proto.convert`.
    progress : callable, optional
        Called with the number of samples done and their total.

    Returns
    -------
    Linearized

    Raises
    ------
    RegimeError
        Something is missing, a weight holds NaN or Inf, or the network is not piecewise affine; the message names
        the part that is not.
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
            f"{checkpoint.path}: {broken[0]} holds NaN or Inf, so there is no affine map; choose another checkpoint "
            "with --step"
        )
    natural = linearizer.run(state)
    maps = linearizer.maps(natural, chosen, progress)
    return Linearized(checkpoint.step, checkpoint.path, tuple(maps), linearizer.samples, linearizer.regions(natural))


def _chosen(samples: Sequence[int] | None, count: int) -> list[int]:
    """Return indices of samples without duplicates."""
    if samples is None:
        return list(range(count))
    try:
        chosen = [operator.index(number) for number in samples]
    except TypeError:
        raise RegimeError(f"samples {samples!r}: expected whole numbers, such as [0, 3]") from None
    wrong = [number for number in chosen if number not in range(count)]
    if wrong:
        raise RegimeError(f"--samples {wrong[0]}: not in the probe; expected samples from 0 to {count - 1}")
    return list(dict.fromkeys(chosen))


def _opened(
    source: Path, checkpoints: Path | None, settings: ConversionSettings
) -> tuple[Source, Program, dict[str, Array]]:
    """Return the checkpoints, the program and the probe."""
    if source.is_dir():
        if checkpoints is not None:
            raise RegimeError(
                f"--checkpoints: requires a trajectory, but {source} is already a directory of checkpoints; leave the "
                "option out"
            )
        # No plan is needed: the choice of tracked gates does not matter here.
        found, program, bound, variants = opened(source, settings)
        if variants is not None:
            raise RegimeError(
                f"{source}: the checkpoints hold different graphs; choose one as the program: --model FILE.onnx"
            )
        return found, program, bound
    if not source.is_file():
        raise RegimeError(no_such(source, "directory of checkpoints or trajectory"))
    if checkpoints is None:
        raise RegimeError(
            f"{source}: a trajectory holds no weights; pass the directory of its checkpoints with --checkpoints DIR, "
            "or instead of the trajectory"
        )
    with TemporaryDirectory() as folder:
        unpacked = unpack(source, Path(folder))
        if not unpacked.has_probe and settings.probe is None:
            raise RegimeError(f"{source}: carries no probe; pass the probe that it was converted with: --probe FILE")
        place_files(unpacked.contents, overwrite=False)
        program, bound = load_program(Path(folder), model=settings.model, probe=settings.probe)
    return open_directory(checkpoints, settings.source), program, bound


def _checkpoint(source: Source, step: int | None) -> Checkpoint:
    if not source.checkpoints:
        raise RegimeError(f"{source.root}: holds no checkpoint")
    if step is None:
        return source.checkpoints[-1]
    found = [checkpoint for checkpoint in source.checkpoints if checkpoint.step == step]
    if not found:
        nearest = min(source.checkpoints, key=lambda checkpoint: abs(checkpoint.step - step))
        raise RegimeError(
            f"--step {step}: no checkpoint of that step in {source.root}; the nearest step is {nearest.step}"
        )
    return found[0]
