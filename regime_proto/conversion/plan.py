"""What a conversion is going to do: source, program, probe and gates, before any checkpoint is run."""

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

# What gzip leaves of packed masks; measured on real runs.
STORED_BIT_PER_BIT = 0.33
# HDF5's own structures in a trajectory of a few layers.
FILE_OVERHEAD = 45_000
# And those of the variable of a quantity, with its attributes.
QUANTITY_OVERHEAD = 4_000


Exporting = Callable[[], AbstractContextManager[object]]


class MissingPart(RegimeError):
    """A directory of checkpoints needs a model or a probe to be analyzed."""


@dataclass(frozen=True)
class Plan:
    """A conversion, ready to run.

    Parameters
    ----------
    source : Source
    program : Program
    probe : mapping of str to array
        By program input, and the reserved arrays of the probe; see `Probe.complete`.
    gates : tuple of Gate
        Those that are tracked.
    all_gates : tuple of Gate
        Every gate of the graph.
    variants : Variants, optional
        Where the checkpoints have graphs of their own, and these differ.
    sample_units : int, optional
        Store at most so many units of each gate, chosen at random.
    sample_seed : int
        Of their choice.
    weights : str, optional
        See `Reading`.
    quantities : tuple of Quantity
        What is measured beside weight deltas and flips.
    interior_points : int
        Points between two checkpoints at which one of these looks.
    known_fingerprints : tuple of str
        Of the first checkpoints, some of which may be gone.
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
        """Probe samples, ``|S|``."""
        return axes_of(self.probe, self.program.probe_inputs)[0]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The gates as layers of the trajectory."""
        layers = (gate.layer(self.samples) for gate in self.gates)
        limit = self.sample_units
        return tuple(layer if limit is None else replace(layer, stored=min(limit, layer.size)) for layer in layers)

    @property
    def state_bytes(self) -> int:
        """Bytes of one checkpoint's tensors, as float32."""
        return 4 * sum(tensor.size for tensor in self.program.tensors)

    @property
    def workers(self) -> int:
        """Checkpoints in flight: one per core, fewer where they would fill more than half of the free memory.

        Where they are fetched first, one is measured while the next one comes.
        """
        most = cores() if self.source.copies is None else min(cores(), 2)
        room = (available_bytes() // 2 - self._shared_bytes) // (self.state_bytes + self._worker_bytes)
        return max(1, min(most, room))

    def mask_policy(self, requested: str) -> MaskPolicy:
        """Return which observations keep their masks.

        Parameters
        ----------
        requested : str
            ``all``, ``every=N``, ``none``, or ``auto``: all while the file is expected to stay below
            `schema.policy.AUTO_BYTES`, else as many, evenly spaced, as fit.

        Raises
        ------
        RegimeError
            It is written otherwise.
        """
        if requested != "auto":
            return parse_policy(requested)
        fixed = self.predicted_file_bytes(MaskPolicy(0))
        return fitting_policy(fixed, self.predicted_file_bytes(MaskPolicy(1)) - fixed)

    def predicted_file_bytes(self, policy: MaskPolicy) -> int:
        """Return about how large the trajectory will be."""
        observations = len(self.source.checkpoints)
        masks = STORED_BIT_PER_BIT * self.samples * sum(layer.bytes for layer in self.layers)
        flips = 2 * len(self.gates) * self.samples
        tensors = len(self.program.trainable)
        sizes = {layout.TENSOR: tensors, layout.LAYER: len(self.gates), layout.SAMPLE: self.samples}
        others = 16 * tensors + stored_bytes(self.quantities, sizes)
        overhead = FILE_OVERHEAD + QUANTITY_OVERHEAD * len(self.quantities)
        return overhead + int(policy.count(observations) * masks + observations * (flips + others))

    def predicted_memory_bytes(self, workers: int) -> int:
        """Return about how much memory a conversion needs beside the libraries."""
        return self._shared_bytes + workers * (self.state_bytes + self._worker_bytes)

    @property
    def _shared_bytes(self) -> int:
        # The state before the first in flight; and the first, where others are held against it.
        return (2 if any(quantity.against == "first" for quantity in self.quantities) else 1) * self.state_bytes

    @property
    def _worker_bytes(self) -> int:
        # Masks come out of the session one byte per unit; activations are float32 and mostly short-lived.
        return 5 * self.samples * sum(layer.size for layer in self.layers)

    @cached_property
    def fingerprints(self) -> list[str]:
        """For every checkpoint, the fingerprint of a trajectory that ends with it.

        A hash over program, probe and options, continued over name, size and time of each file: a conversion whose
        fingerprint is in the list was made of the first checkpoints of this run.
        """
        protocol: list[object] = [layout.PLAIN_VERSION, self.program.sha256, probe_sha256(self.probe)]
        protocol += [[gate.node for gate in self.gates], self.sample_units, self.sample_seed, self.weights]
        protocol += [self.source.step_kind]
        if any(quantity.against == "last" for quantity in self.quantities):
            # All rows change with it, so a run that has grown is another one.
            protocol += [stamps(self.source.checkpoints[-1].path)]
        chain = list(self.known_fingerprints)
        for checkpoint in self.source.checkpoints[len(chain) :]:
            link = [chain[-1] if chain else protocol, checkpoint.step, stamps(checkpoint.path)]
            chain.append(hashlib.sha256(json.dumps(link).encode()).hexdigest())
        return chain


def make_plan(root: Path, settings: ConversionSettings | None = None, *, exporting: Exporting = nullcontext) -> Plan:
    """Recognise a run and what is needed to measure it.

    Parameters
    ----------
    root : Path
        The directory of checkpoints.
    settings : ConversionSettings, optional
        A model or a probe wins over what is in the directory.
    exporting : callable, optional
        Returns a context in which the model is exported, which may take long.

    Raises
    ------
    RegimeError
        Something is missing or does not fit.
    """
    settings = settings or ConversionSettings()
    # What cannot be measured is said before anything takes time.
    choose(settings.measure)
    source, program, bound, variants = opened(root, settings, exporting=exporting)
    return planned(source, program, bound, settings, variants=variants)


def opened(
    root: Path, settings: ConversionSettings, *, exporting: Exporting = nullcontext
) -> tuple[Source, Program, dict[str, Array], Variants | None]:
    """Return the checkpoints that were chosen, the program, the probe, and the graphs if they differ.

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
    """Return the probe of a run: given, made of text, or found in its directory.

    Raises
    ------
    RegimeError
        There is none, it cannot be read, or text lacks a tokenizer.
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
    """Return the plan for a program and a probe that are there.

    Parameters
    ----------
    source : Source
        The checkpoints that were chosen.
    program : Program
    probe : mapping of str to array
        By program input, and the reserved arrays of the probe.
    settings : ConversionSettings
    variants : Variants, optional
        Where the checkpoints have graphs of their own, and these differ.
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
    """Look whether checkpoints that hold their graphs all hold the same one; None if they do."""
    adapter = capable(source.adapter, Outlining)
    if adapter is None:
        return None
    outlines: dict[Checkpoint, Outline] = {}
    for checkpoint in source.checkpoints:
        try:
            with on_disk(checkpoint.path) as path:
                outlines[checkpoint] = adapter.outline(path)
        except RegimeError:
            # A damaged file is an error when its turn to be read comes.
            outlines[checkpoint] = next(iter(outlines.values()), Outline("", {}))
    if len({outline.structure for outline in outlines.values()}) == 1:
        return None
    return Variants(outlines, lambda checkpoint: _program_of(source.adapter, checkpoint, probe))


def _program_of(adapter: str, checkpoint: Checkpoint, probe: Probe) -> Program:
    module = capable(adapter, Describing)
    assert module is not None  # noqa: S101
    # Of the weights only names and shapes count.
    with on_disk(checkpoint.path, values=False) as path:
        return module.program_of(path, probe)


def _restricted(program: Program, variants: Variants) -> Program:
    common = variants.common(program)
    left_out = len(program.trainable) - len(common.trainable)
    graphs = len({outline.structure for outline in variants.outlines.values()})
    warnings.warn(
        f"the checkpoints hold {graphs} different graphs: each is run on its own; {left_out} of "
        f"{len(program.trainable)} weight tensors are not in all of them under one name and shape, and do not count",
        RegimeWarning,
        stacklevel=3,
    )
    return common


def _warn_of_nested(gates: Sequence[Gate]) -> None:
    nested = [gate for gate in gates if gate.nested and gate.kind != "smooth"]
    if nested:
        warnings.warn(
            f"{counted(len(nested), 'gate')} cannot be tracked: {nested[0].node} ({nested[0].op}) lies "
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
    """Return the program and the probe bound to its inputs: given, found in `root`, or from the first checkpoint."""
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
    """Return the program of a model that is measured on a probe; one that is a program already as it is.

    Parameters
    ----------
    roots : collection of Path
        The directories of the checkpoints; no code is run from there.
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
    """Write ``program.onnx`` and ``probe.npz`` into `root`: from then on the directory explains itself.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    RegimeError
        As in `program_files`, or other files are in the way.
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
    """Return the files that make the directory `root` explain itself.

    Where there are checkpoints already, the first is compared with the program.

    Returns
    -------
    dict of Path to bytes

    Raises
    ------
    RegimeError
        The model cannot be exported, or the checkpoints are another model's.
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
    """Return the program of a run whose checkpoints say of what model they are."""
    source = source or find_source(root)
    if source is not None and capable(source.adapter, Describing) is not None:
        return _program_of(source.adapter, source.checkpoints[0], probe)
    raise MissingPart(
        f"{root}: no {PROGRAM_FILE} in it; say how to build the model: "
        "--model MODULE:FACTORY, for example --model mypkg.net:make, or a .onnx or .pt2 file"
    )


def _find_probe(root: Path, probe: object) -> Probe:
    if probe is not None:
        return as_probe(probe)
    path = root / PROBE_FILE
    if not path.is_file():
        raise MissingPart(
            f"{root}: no {PROBE_FILE} in it; give the fixed inputs to look at with --probe FILE "
            "(.npz, .npy or .safetensors, some 0.2 × batch size validation samples)"
        )
    with on_disk(path) as local:
        return load_probe(local)


def _tokenized(text: str | Path, probe: object, source: Source | None) -> Probe:
    """Return the probe that the checkpoints' tokenizer makes of a file of text."""
    if probe is not None:
        raise RegimeError("--probe and --probe-text: give one of them")
    lines = load_lines(Path(text))
    if source is None:
        raise RegimeError("--probe-text needs a tokenizer, which lies with the checkpoints, and there are none yet")
    adapter = capable(source.adapter, Tokenizing)
    if adapter is None:
        raise RegimeError(
            f"--probe-text needs a tokenizer beside the weights, as transformers saves it, and {source.root} holds "
            f"{source.adapter} checkpoints; give token ids in place of text: --probe FILE"
        )
    with on_disk(source.checkpoints[0].path, values=False) as path:
        return adapter.tokenize(path, lines, str(text))
