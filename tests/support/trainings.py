"""Real trainings of small networks, as sequences of states, for what tests sequences."""

import math
from pathlib import Path

import nets
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.optim import lr_scheduler as schedules

from regime_proto.checkpoints.source import Checkpoint, Source, State
from regime_proto.conversion.plan import write_program


def train(
    model, steps, *, seed=0, optimizer=None, schedule=None, batch=16, samples=256, before_step=lambda step, model: None
):
    """Return the state after each of `steps`, of a real training on labels that can be learned."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, *nets.SHAPES[type(model)], generator=generator)
    labels = (inputs.flatten(1) @ torch.randn(inputs[0].numel(), 3, generator=generator)).argmax(1)
    optimizer = (optimizer or sgd(0.1))(model.parameters())
    scheduler = None if schedule is None else schedule(optimizer)
    torch.manual_seed(seed)
    model.train()
    states = {}
    for step in range(max(steps) + 1):
        if step in steps:
            states[step] = {name: value.detach().clone() for name, value in model.state_dict().items()}
        before_step(step, model)
        chosen = torch.randint(0, samples, (batch,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return states


def sgd(rate, momentum=0.9):
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum)


def adamw(rate, decay):
    return lambda parameters: torch.optim.AdamW(parameters, rate, weight_decay=decay)


def in_memory(states):
    """Return a source whose checkpoints are dicts of tensors."""
    checkpoints = tuple(Checkpoint(step, Path(f"step_{step}.pt")) for step in sorted(states))

    def read(checkpoint):
        return State({name: value.numpy() for name, value in states[checkpoint.step].items()})

    return Source("torch", "made here", Path("run"), "step", "made here", checkpoints, read)


def every(count, stride=1):
    return tuple(range(0, count * stride + 1, stride))


def warm_restarts(period, growth=1):
    return lambda optimizer: schedules.CosineAnnealingWarmRestarts(optimizer, period, T_mult=growth)


def warm_up(steps, total=math.inf):
    return lambda optimizer: schedules.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / steps) * max(0, 1 - step / total)
    )


def save_walk(folder, states):
    """Save an MLP whose weights go a random step each time, with its program and probe; return the new folder."""
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    model = nets.make_mlp()
    state = model.state_dict()
    for step in range(states):
        for name, tensor in state.items():
            if tensor.is_floating_point() and "running" not in name:
                tensor += 0.02 * torch.randn(tensor.shape, generator=random)
        save_file({name: tensor.clone() for name, tensor in state.items()}, folder / f"step_{step}.safetensors")
    write_program(folder, model=model, probe=nets.probe(model))
    return folder
