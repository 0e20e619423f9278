"""Plans a conversion: determines source, program, probe and gates before any checkpoint is run."""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from regime_proto.checkpoints.locations import on_disk, size, stamps
from regime_proto.checkpoints.source import Checkpoint, Source
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.seeing import obstacle
from regime_proto.engine.trial import PROGRAM_FILES, remember, require_runnable, require_taken
from regime_proto.engine.variants import Outline, Variants
from regime_proto.plugins.factory import load_model
from regime_proto.plugins.open_directory import find_source, open_directory
from regime_proto.plugins.protocols import Describing, Outlining, Tokenizing
from regime_proto.plugins.registry import capable, exporter_for
from regime_proto.plugins.source_settings import AS_DETECTED, SourceSettings
from regime_proto.program.gates import Gate, find_gates, select_gates
from regime_proto.program.probe import FILE_NAME as PROBE_FILE
from regime_proto.program.probe import Probe, as_probe, load_lines, load_probe, probe_content, probe_sha256
from regime_proto.program.program import FILE_NAME as PROGRAM_FILE
from regime_proto.program.program import Program
from regime_proto.program.sample_axes import axes_of
from regime_proto.quantities.base import Quantity
from regime_proto.quantities.installed import choose, possible
from regime_proto.quantities.interior_flips import INTERIOR_POINTS, looking_at
from regime_proto.quantities.measuring import stored_bytes
from regime_proto.runtime.device import cores
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.files import place_files
from regime_proto.schema.header import Layer
from regime_proto.schema.policy import MaskPolicy, fitting_policy, parse_policy
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

# Compression ratio of packed masks with gzip, measured on real runs.
STORED_BIT_PER_BIT = 0.33
# Size of HDF5's own structures in a trajectory of a few layers.
FILE_OVERHEAD = 45_000
# The same for the variable of one quantity, with its attributes.
QUANTITY_OVERHEAD = 4_000


Exporting = Callable[[], AbstractContextManager[object]]


class MissingPart(RegimeError):
    """The model or the probe of a directory of checkpoints is missing."""


@dataclass(frozen=True)
class Plan:
    """A conversion, ready to run.

    Parameters
    ----------
    source : Source
    program : Program
    probe : mapping of str to array
        The arrays of the probe by program input, and its reserved arrays; see `Probe.complete`.
    gates : tuple of Gate
        The tracked gates.
    all_gates : tuple of Gate
        All gates of the graph.
    variants : Variants, optional
        The graphs of the checkpoints, if each holds its own and they differ.
    sample_units : int, optional
        Largest number of units to store for each gate, chosen at random. Default: all units.
    sample_seed : int
        Random seed for `sample_units`.
    weights : str, optional
        See `Reading`.
    quantities : tuple of Quantity
        Quantities to measure in addition to weight deltas and flips.
    interior_points : int
        Number of points between two checkpoints at which ``interior_flips`` is measured.
    known_fingerprints : tuple of str
        Fingerprints of the first checkpoints, some of which may have been deleted since.
    """

    source: Source
    program: Program
    probe: Mapping[str, Array]
    gates: tuple[Gate, ...]
    all_gates: tuple[Gate, ...]
    variants: Variants | None = None
    sample_units: int | None = None
    sample_seed: int = 0
    weights: str | None = None
    quantities: tuple[Quantity, ...] = ()
    interior_points: int = INTERIOR_POINTS
    known_fingerprints: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Number of probe samples, ``|S|``."""
        return axes_of(self.probe, self.program.probe_inputs)[0]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The gates as layers of the trajectory."""
        layers = (gate.layer(self.samples) for gate in self.gates)
        limit = self.sample_units
        return tuple(layer if limit is None else replace(layer, stored=min(limit, layer.size)) for layer in layers)

    @property
    def state_bytes(self) -> int:
        """Size of the tensors of one checkpoint as float32, in bytes."""
        return 4 * sum(tensor.size for tensor in self.program.tensors)

    @property
    def workers(self) -> int:
        """Checkpoints measured at once: one per core, fewer if they would fill more than half of the free memory.

        If checkpoints are downloaded, one is measured while the next one is downloaded.
        """
        most = cores() if self.source.copies is None else min(cores(), 2)
        room = (available_bytes() // 2 - self._shared_bytes) // (self.state_bytes + self._worker_bytes)
        return max(1, min(most, room))

    def mask_policy(self, requested: str) -> MaskPolicy:
        """Decide which observations keep their masks.

        Parameters
        ----------
        requested : str
            ``all``, ``every=N``, ``none``, or ``auto``. ``auto`` keeps all masks if the file is expected to stay below
            `schema.policy.AUTO_BYTES`, otherwise as many evenly spaced ones as fit.

        Raises
        ------
        RegimeError
            `requested` has a different form.
        """
        if requested != "auto":
            return parse_policy(requested)
        fixed = self.predicted_file_bytes(MaskPolicy(0))
        return fitting_policy(fixed, self.predicted_file_bytes(MaskPolicy(1)) - fixed)

    def predicted_file_bytes(self, policy: MaskPolicy) -> int:
        """Estimate the size of the trajectory, in bytes."""
        observations = len(self.source.checkpoints)
        masks = STORED_BIT_PER_BIT * self.samples * sum(layer.bytes for layer in self.layers)
        flips = 2 * len(self.gates) * self.samples
        tensors = len(self.program.trainable)
        sizes = {layout.TENSOR: tensors, layout.LAYER: len(self.gates), layout.SAMPLE: self.samples}
        others = 16 * tensors + stored_bytes(self.quantities, sizes)
        overhead = FILE_OVERHEAD + QUANTITY_OVERHEAD * len(self.quantities)
        return overhead + int(policy.count(observations) * masks + observations * (flips + others))

    def predicted_memory_bytes(self, workers: int) -> int:
        """Estimate the memory that a conversion needs in addition to the libraries, in bytes."""
        return self._shared_bytes + workers * (self.state_bytes + self._worker_bytes)

    @property
    def _shared_bytes(self) -> int:
        # The previous state; and the first state, if others are compared with it.
        return (2 if any(quantity.against == "first" for quantity in self.quantities) else 1) * self.state_bytes

    @property
    def _worker_bytes(self) -> int:
        # Masks come out of the session one byte per unit; activations are float32 and mostly short-lived.
        return 5 * self.samples * sum(layer.size for layer in self.layers)

    @cached_property
    def fingerprints(self) -> list[str]:
        """The fingerprint of a trajectory that ends with each checkpoint.

        A hash of program, probe and options, continued over the name, size and time of each file. A conversion whose
        fingerprint is in the list covers the first checkpoints of this run.
        """
        protocol: list[object] = [layout.PLAIN_VERSION, self.program.sha256, probe_sha256(self.probe)]
        protocol += [[gate.node for gate in self.gates], self.sample_units, self.sample_seed, self.weights]
        protocol += [self.source.step_kind]
        if any(quantity.against == "last" for quantity in self.quantities):
            # All rows depend on the last checkpoint, so a run with new checkpoints counts as a different run.
            protocol += [stamps(self.source.checkpoints[-1].path)]
        chain = list(self.known_fingerprints)
        for checkpoint in self.source.checkpoints[len(chain) :]:
            link = [chain[-1] if chain else protocol, checkpoint.step, stamps(checkpoint.path)]
            chain.append(hashlib.sha256(json.dumps(link).encode()).hexdigest())
        return chain


def make_plan(root: Path, settings: ConversionSettings | None = None, *, exporting: Exporting = nullcontext) -> Plan:
    """Recognise a run, and find everything that is needed to measure it.

    Parameters
    ----------
    root : Path
        Directory of checkpoints.
    settings : ConversionSettings, optional
        A model or a probe in the settings overrides the one in the directory.
    exporting : callable, optional
        Returns a context manager in which the model is exported, which may take long.

    Returns
    -------
    Plan

    Raises
    ------
    RegimeError
        Something is missing, or the parts do not fit together.
    """
    settings = settings or ConversionSettings()
    # Quantities that cannot be measured raise an error before any time is spent.
    choose(settings.measure)
    source, program, bound, variants = opened(root, settings, exporting=exporting)
    return planned(source, program, bound, settings, variants=variants)


def opened(
    root: Path, settings: ConversionSettings, *, exporting: Exporting = nullcontext
) -> tuple[Source, Program, dict[str, Array], Variants | None]:
    """Return the selected checkpoints, the program, the probe, and the graphs of the checkpoints if they differ.

    Raises
    ------
    RegimeError
        As in `make_plan`.
    """
    source = open_directory(root, settings.source).select(settings.steps, settings.every)
    probe, model = probe_of(root, source, settings), settings.model
    program, bound = load_program(root, model=model, probe=probe, source=source, exporting=exporting)
    variants = _find_variants(source, probe) if model is None and not (root / PROGRAM_FILE).is_file() else None
    program = program if variants is None else _restricted(program, variants)
    return source, program, bound, variants


def probe_of(root: Path, source: Source | None, settings: ConversionSettings) -> Probe:
    """Return the probe of a run: from the settings, from text, or from its directory.

    Raises
    ------
    RegimeError
        There is no probe, it cannot be read, or there is no tokenizer for the text.
    """
    text, probe = settings.probe_text, settings.probe
    return _find_probe(root, probe if text is None else _tokenized(text, probe, source))


def planned(
    source: Source,
    program: Program,
    probe: Mapping[str, Array],
    settings: ConversionSettings,
    *,
    variants: Variants | None = None,
) -> Plan:
    """Return the plan for a given program and probe.

    Parameters
    ----------
    source : Source
        The selected checkpoints.
    program : Program
    probe : mapping of str to array
        The arrays of the probe by program input, and its reserved arrays.
    settings : ConversionSettings
    variants : Variants, optional
        The graphs of the checkpoints, if each holds its own and they differ.
    """
    found = find_gates(program)
    _warn_of_nested(found)
    gates = select_gates(found, settings.gates)
    samples = axes_of(probe, program.probe_inputs)[0]

    def why_not(quantity: Quantity) -> str:
        return obstacle(quantity, program, gates, samples, is_one=variants is None)

    points = INTERIOR_POINTS if settings.interior_points is None else settings.interior_points
    return Plan(
        source=source,
        program=program,
        probe=probe,
        gates=gates,
        all_gates=found,
        variants=variants,
        sample_units=settings.sample_units,
        sample_seed=settings.sample_seed,
        weights=settings.source.weights,
        quantities=looking_at(possible(settings.measure, why_not, tell="not measured"), points),
        interior_points=points,
    )


def _find_variants(source: Source, probe: Probe) -> Variants | None:
    """Return the graphs of checkpoints that hold their own; None if all are the same."""
    adapter = capable(source.adapter, Outlining)
    if adapter is None:
        return None
    outlines: dict[Checkpoint, Outline] = {}
    for checkpoint in source.checkpoints:
        try:
            with on_disk(checkpoint.path) as path:
                outlines[checkpoint] = adapter.outline(path)
        except RegimeError:
            # A damaged file raises an error later, when it is read.
            outlines[checkpoint] = next(iter(outlines.values()), Outline("", {}))
    if len({outline.structure for outline in outlines.values()}) == 1:
        return None
    return Variants(outlines, lambda checkpoint: _program_of(source.adapter, checkpoint, probe))


def _program_of(adapter: str, checkpoint: Checkpoint, probe: Probe) -> Program:
    module = capable(adapter, Describing)
    assert module is not None  # noqa: S101
    # Only the names and shapes of the weights matter.
    with on_disk(checkpoint.path, values=False) as path:
        return module.program_of(path, probe)


def _restricted(program: Program, variants: Variants) -> Program:
    common = variants.common(program)
    left_out = len(program.trainable) - len(common.trainable)
    graphs = len({outline.structure for outline in variants.outlines.values()})
    warnings.warn(
        f"the checkpoints hold {graphs} different graphs, and each is run with its own; {left_out} of "
        f"{len(program.trainable)} weight tensors do not have the same name and shape in all of them, and are left out",
        RegimeWarning,
        stacklevel=3,
    )
    return common


def _warn_of_nested(gates: Sequence[Gate]) -> None:
    nested = [gate for gate in gates if gate.nested and gate.kind != "smooth"]
    if nested:
        warnings.warn(
            f"{counted(len(nested), 'gate')} cannot be tracked: {nested[0].node} ({nested[0].op}) is "
            f"{nested[0].reason}" + (" (regime inspect lists all)" if len(nested) > 1 else ""),
            RegimeWarning,
            stacklevel=3,
        )


def load_program(
    root: Path,
    *,
    model: object = None,
    probe: object = None,
    source: Source | None = None,
    exporting: Exporting = nullcontext,
) -> tuple[Program, dict[str, Array]]:
    """Return the program, and the probe bound to its inputs.

    Each is given, found in `root`, or, for the program, built from the first checkpoint.
    """
    probe = _find_probe(root, probe)
    if model is None and (root / PROGRAM_FILE).is_file():
        program = _load_program_file(root, probe, source)
    else:
        with exporting():
            program = _described(root, probe, source) if model is None else exported([root], model, probe)
    bound = probe.complete(program.probe_inputs)
    require_taken(program, bound, probe.where)
    if model is not None or not (root / PROGRAM_FILE).is_file():
        program = program.with_sample_axes(axes_of(bound, program.probe_inputs)[1])
    return program, bound


def exported(roots: Collection[Path], model: object, probe: Probe) -> Program:
    """Export a model to a program that runs on a probe; a model that is already a program is returned unchanged.

    Parameters
    ----------
    roots : collection of Path
        Directories of the checkpoints, from which no code is run.
    model : object
    probe : Probe

    Raises
    ------
    RegimeError
        The model cannot be found or exported.
    """
    if isinstance(model, Program):
        return model
    if isinstance(model, str):
        model = load_model(model, apart_from=roots)
    return exporter_for(model).export(model, probe)


def write_program(
    root: Path,
    *,
    model: object,
    probe: object,
    probe_text: str | Path | None = None,
    overwrite: bool = False,
    settings: SourceSettings = AS_DETECTED,
) -> list[Path]:
    """Write ``program.onnx`` and ``probe.npz`` to `root`, so that the directory can be converted without the model.

    Parameters
    ----------
    root : Path
        Directory of checkpoints, which may still be empty.
    model, probe : object
        As in `regime_proto.convert`.
    probe_text : path, optional
        As in `regime_proto.convert`.
    overwrite : bool
        Replace existing files.
    settings : SourceSettings
        How checkpoints in the directory are read.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    RegimeError
        As in `program_files`, or different files exist.
    """
    contents = program_files(root, model=model, probe=probe, probe_text=probe_text, settings=settings)
    return place_files(contents, overwrite=overwrite)


def program_files(
    root: Path,
    *,
    model: object,
    probe: object,
    probe_text: str | Path | None = None,
    settings: SourceSettings = AS_DETECTED,
    exporting: Exporting = nullcontext,
) -> dict[Path, bytes]:
    """Return the files ``program.onnx`` and ``probe.npz`` for the directory `root`; see `write_program`.

    If the directory holds checkpoints, the first one is checked against the program.

    Returns
    -------
    dict of Path to bytes
        The content of each file.

    Raises
    ------
    RegimeError
        The model cannot be exported, or the checkpoints belong to a different model.
    """
    source = find_source(root, settings)
    probe = probe if probe_text is None else _tokenized(probe_text, probe, source)
    program, bound = load_program(root, model=model, probe=probe, source=source, exporting=exporting)
    find_gates(program)
    if source is not None:
        first = source.checkpoints[0]
        program.bind(source.read(first), str(first.path))
    remember(program.content, as_probe(bound))
    return {root / PROGRAM_FILE: program.content, root / PROBE_FILE: probe_content(bound)}


def _load_program_file(root: Path, probe: Probe, source: Source | None) -> Program:
    with on_disk(root / PROGRAM_FILE) as local:
        weights = size(source.checkpoints[0].path) if source is not None and source.checkpoints else 0
        require_runnable(local, probe, PROGRAM_FILES, weights=weights)
        return Program.load(local)


def _described(root: Path, probe: Probe, source: Source | None) -> Program:
    """Return the program of a run whose checkpoints describe their model."""
    source = source or find_source(root)
    if source is not None and capable(source.adapter, Describing) is not None:
        return _program_of(source.adapter, source.checkpoints[0], probe)
    raise MissingPart(
        f"{root}: no {PROGRAM_FILE} in it; pass a function that builds the model with --model MODULE:FACTORY, for "
        "example --model mypkg.net:make, or a .onnx or .pt2 file"
    )


def _find_probe(root: Path, probe: object) -> Probe:
    if probe is not None:
        return as_probe(probe)
    path = root / PROBE_FILE
    if not path.is_file():
        raise MissingPart(
            f"{root}: no {PROBE_FILE} in it; pass a fixed set of inputs with --probe FILE (.npz, .npy or "
            ".safetensors, about 0.2 × batch size validation samples)"
        )
    with on_disk(path) as local:
        return load_probe(local)


def _tokenized(text: str | Path, probe: object, source: Source | None) -> Probe:
    """Return the probe that the tokenizer of the checkpoints creates from a text file."""
    if probe is not None:
        raise RegimeError("--probe and --probe-text: mutually exclusive; pass only one of them")
    lines = load_lines(Path(text))
    if source is None:
        raise RegimeError(
            "--probe-text: needs the tokenizer next to the checkpoints, but there are no checkpoints yet; pass token "
            "ids with --probe FILE instead"
        )
    adapter = capable(source.adapter, Tokenizing)
    if adapter is None:
        raise RegimeError(
            f"--probe-text: needs a tokenizer next to the weights, as transformers saves it, but {source.root} holds "
            f"{source.adapter} checkpoints; pass token ids instead of text: --probe FILE"
        )
    with on_disk(source.checkpoints[0].path, values=False) as path:
        return adapter.tokenize(path, lines, str(text))
