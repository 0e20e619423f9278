"""Reads folders of Hugging Face transformers, with the state of its Trainer, and builds their models.

Reading the weights needs neither transformers nor PyTorch; building the model and tokenizing need both.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from regime_proto.adapters import from_folder
from regime_proto.adapters.from_huggingface import trainer_state
from regime_proto.adapters.from_huggingface.config import config_of, transformers_apart
from regime_proto.adapters.from_torch.adapter import INSTALL, draw, leads
from regime_proto.adapters.needed import needed
from regime_proto.checkpoints.payload import Incomplete, Label, Payload, label_of
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program

SUFFIXES: tuple[str, ...] = ()
REFINES = ("folder", "torch")
MODELS = "a transformers model"
# In training, they differ from other torch modules only in their export.
__all__ = ["draw", "leads"]


def recognise(path: Path) -> str | None:
    """Recognise a folder by a config.json that names a model, next to weights."""
    config = config_of(path)
    weights = from_folder.index_in(path) or from_folder.weights_in(path)
    if config is None or weights is None:
        return None
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config["model_type"]
    return f"config.json ({named}) next to {weights.name}"


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the Trainer, the folder's name or the weights, once all files exist."""
    if trainer_state.is_under_way(path):
        raise Incomplete(f"{path}: incomplete ({trainer_state.FILE_NAME}, which is written last, is missing)")
    label = from_folder.peek(path)
    facts = trainer_state.facts(path)
    return label_of(facts) if facts else label


def read(path: Path) -> Payload:
    """Read the weights of a folder, with step, epoch and scores of the Trainer."""
    return _with_facts(path, from_folder.read(path))


def read_lazily(path: Path) -> Payload:
    """Read a folder as `read` does, without holding the weights in memory."""
    return _with_facts(path, from_folder.read_lazily(path))


def _with_facts(path: Path, payload: Payload) -> Payload:
    return Payload(payload.groups, {**payload.facts, **trainer_state.facts(path)})


def accepts(model: object) -> bool:
    """Whether `model` is a transformers model, possibly wrapped for training on several devices."""
    transformers, torch = sys.modules.get("transformers"), sys.modules.get("torch")
    if transformers is None or torch is None or not isinstance(model, torch.nn.Module):
        return False
    from regime_proto.adapters.from_torch.wrappers import bare

    return isinstance(bare(model), transformers.PreTrainedModel)


def export(model: object, probe: Probe) -> Program:
    """Export a transformers model; see `from_torch.exporter`."""
    from regime_proto.adapters.from_huggingface import model as huggingface_model

    return huggingface_model.export(model, probe)


def follow(model: object, probe: Probe | None) -> LiveModel | Engine:
    """Follow a transformers model during training; see `from_torch.follower`."""
    with needed("to record a PyTorch model", INSTALL):
        from regime_proto.adapters.from_huggingface import model as huggingface_model
        from regime_proto.adapters.from_torch import follower
    return follower.follow(model, probe, huggingface_model.export_both)


def program_of(path: Path, probe: Probe) -> Program:
    """Return the forward graph of the model that config.json names; no code of the checkpoint is run."""
    with transformers_apart(path, "pass a function that builds the model: --model MODULE:FACTORY"):
        from regime_proto.adapters.from_huggingface import model as huggingface_model

    return huggingface_model.program_of(path, probe)


def tokenize(path: Path, lines: Sequence[str], where: str) -> Probe:
    """Convert lines of text to inputs of the model; see `tokenizer`."""
    with transformers_apart(path, "pass token ids instead of text: --probe FILE"):
        from regime_proto.adapters.from_huggingface import tokenizer

    return tokenizer.tokenize(path, lines, where)
